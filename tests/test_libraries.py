from importlib import metadata

import pytest
from packaging.version import Version

from phi3_lora_qa import libraries
from phi3_lora_qa.errors import IncompatibleLibraryError
from phi3_lora_qa.libraries import is_older, part_of


@pytest.mark.parametrize(
    ("installed", "than", "older"),
    [("0.19.1", "0.21", True), ("0.21.0", "0.21", False), ("0.9.0", "0.21", True),
     ("1.0", "0.21", False), ("0.21.0rc1", "0.21", True)],
)  # fmt: skip
def test_versions_are_compared_as_versions(
    installed: str, than: str, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_installed", lambda library: Version(installed))
    assert is_older("peft", than) == older


def test_a_library_that_is_missing_is_not_an_old_one() -> None:
    assert not is_older("no-such-library", "1.0")


def test_a_part_that_is_there_is_returned() -> None:
    from peft.utils.other import ModulesToSaveWrapper

    assert part_of("peft", "peft.utils.other", "ModulesToSaveWrapper") is ModulesToSaveWrapper


@pytest.mark.parametrize("module", ["peft.utils.other", "peft.no.such.module"])
def test_a_part_that_is_gone_is_named_with_the_version_and_one_that_works(module: str) -> None:
    with pytest.raises(IncompatibleLibraryError) as caught:
        part_of("peft", module, "Gone")
    message = str(caught.value)
    assert message.startswith(f"peft {metadata.version('peft')} has no {module}.Gone")
    newest = libraries._tried()["peft"][1]
    assert message.endswith(f"pip install 'peft=={newest}'")


def test_every_library_whose_parts_are_used_was_tried_in_the_lowest_version_that_is_promised() -> (
    None
):
    """What pyproject.toml promises is what `make compat` ran on."""
    from packaging.requirements import Requirement

    promised = [
        Requirement(text)
        for text in metadata.requires("phi3-lora-qa") or []
        if "extra ==" not in text
    ]
    tried = libraries._tried()
    assert {requirement.name for requirement in promised} <= set(tried)
    for requirement in promised:
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        lowest, newest = tried[requirement.name]
        assert (lowest in requirement.specifier, newest in requirement.specifier) == (True, True)
        assert Version(lowest) == Version(bound.version), f"{requirement.name}: {lowest} was tried"
