import shlex
from dataclasses import replace

import pytest

from phi3_lora_qa.record import AdapterEntry, SettingEntry
from phi3_lora_qa.report.rerun_commands import rerun_all, rerun_check
from phi3_lora_qa.setting_specs import SourceKind
from tests.report.builders import passing

HOSTILE = ["$(touch pwned)", "a; rm -rf x", "it's", "`id`", "a\nb", "-x", "a b", "\u202eevil"]


def adapter(path: str) -> AdapterEntry:
    return replace(passing().adapter, path=path)


def test_the_command_repeats_only_what_the_user_chose() -> None:
    command = rerun_check(passing(), "phi3::static::keys")
    assert command == (
        "pytest phi3::static::keys --phi3-adapter=adapters/ferry-desk "
        "--phi3-base=tiny --phi3-seed=7"
    )


def test_the_whole_gate_is_rerun_without_an_id() -> None:
    assert rerun_all(passing()).startswith("pytest --phi3-adapter=")


def test_several_adapters_are_all_passed_because_ids_contain_their_names() -> None:
    settings = {
        "adapter": SettingEntry(value=["a", "b"], source="--phi3-adapter", kind=SourceKind.OPTION)
    }
    command = rerun_check(passing(settings=settings), "phi3::static::keys[a]")
    assert shlex.split(command)[1:] == [
        "phi3::static::keys[a]",
        "--phi3-adapter=a",
        "--phi3-adapter=b",
    ]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_is_one_word_of_the_shell_and_one_line(path: str) -> None:
    command = rerun_all(passing(adapter=adapter(path), settings={}))
    assert "\n" not in command
    words = shlex.split(command)
    assert words[0] == "pytest"
    assert len(words) == 2
