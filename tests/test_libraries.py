"""Private parts of other libraries are looked up, and a missing one is reported with versions."""

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


def test_a_missing_library_is_not_older() -> None:
    assert not is_older("no-such-library", "1.0")


def test_an_existing_part_is_returned() -> None:
    from peft.utils.other import ModulesToSaveWrapper

    assert part_of("peft", "peft.utils.other", "ModulesToSaveWrapper") is ModulesToSaveWrapper


@pytest.mark.parametrize("module", ["peft.utils.other", "peft.no.such.module"])
def test_a_missing_part_is_named_with_the_version_and_one_that_works(module: str) -> None:
    with pytest.raises(IncompatibleLibraryError) as caught:
        part_of("peft", module, "Gone")
    message = str(caught.value)
    assert message.startswith(f"peft {metadata.version('peft')} has no {module}.Gone")
    newest = libraries._tested()["peft"][1]
    assert message.endswith(f"pip install 'peft=={newest}'")


def test_the_lowest_tested_version_of_every_library_is_the_lowest_allowed_one() -> None:
    """`make compat` ran with the versions that pyproject.toml allows."""
    from packaging.requirements import Requirement

    parts = [{"extra": extra} for extra in ("", "gate", "train", "loralib")]
    everything = map(Requirement, metadata.requires("phi3-lora-qa") or [])
    required = [
        requirement
        for requirement in everything
        if requirement.marker is None or any(map(requirement.marker.evaluate, parts))
    ]
    assert {"numpy", "torch", "trl", "loralib"} <= {requirement.name for requirement in required}
    tested = libraries._tested()
    assert {requirement.name for requirement in required} <= set(tested)
    for requirement in required:
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        lowest, newest = tested[requirement.name]
        assert (lowest in requirement.specifier, newest in requirement.specifier) == (True, True)
        assert Version(lowest) == Version(bound.version), f"{requirement.name}: {lowest} was tested"
