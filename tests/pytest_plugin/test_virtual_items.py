"""Ids of virtual items are recognised among the arguments, in every form that pytest prints."""

import pytest

from phi3_lora_qa.pytest_plugin.virtual_items import split_node_ids


@pytest.mark.parametrize(
    ("args", "ids", "rest"),
    [
        ([], [], []),
        (["phi3"], ["phi3"], []),
        (["phi3::math", "tests"], ["phi3::math"], ["tests"]),
        (["../../phi3::math::x[a]"], ["phi3::math::x[a]"], []),
        (["phi3::quality::loss[a\nb]"], ["phi3::quality::loss[a\nb]"], []),
        (["phi3/test_x.py", "phi3x", "./phi3"], [], ["phi3/test_x.py", "phi3x", "./phi3"]),
    ],
)
def test_ids_are_split_from_paths(args: list[str], ids: list[str], rest: list[str]) -> None:
    assert split_node_ids(args, "phi3") == (ids, rest)
