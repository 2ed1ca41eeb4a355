import pytest

from phi3_lora_qa.adapter.module_names import matches_suffix, name_suffixes


@pytest.mark.parametrize(
    ("name", "suffix", "matches"),
    [
        ("model.norm", "model.norm", True),
        ("model.norm", "norm", True),
        ("model.x_norm", "norm", False),
        ("norm", "model.norm", False),
        ("model.norm", "", False),
        ("model.norm", "odel.norm", False),
    ],
)
def test_a_suffix_starts_at_a_dot_or_is_the_whole_name(
    name: str, suffix: str, matches: bool
) -> None:
    assert matches_suffix(name, suffix) is matches


def test_suffixes_are_listed_from_the_longest() -> None:
    assert name_suffixes("model.layers.0") == ["model.layers.0", "layers.0", "0"]
    assert all(
        matches_suffix("model.layers.0", suffix) for suffix in name_suffixes("model.layers.0")
    )
