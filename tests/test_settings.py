"""Each setting is found in the place with the highest precedence, and keeps its source."""

from pathlib import Path

import pytest

from phi3_lora_qa import settings as settings_module
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.setting_specs import STAGES, server_of
from phi3_lora_qa.settings import (
    DEFAULT,
    DRAWN,
    LARGEST_SEED,
    GateSettings,
    is_inside,
    resolve,
    with_order,
)


def settings(
    tmp_path: Path,
    options: dict[str, object] | None = None,
    environment: dict[str, str] | None = None,
    ini: dict[str, object] | None = None,
) -> GateSettings:
    return resolve(options or {}, environment or {}, ini or {}, tmp_path, tmp_path)


def test_without_any_setting_the_defaults_apply(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found.adapter == ()
    assert found.stage == STAGES
    assert (found.seed, found.dtype, found.device, found.only) == (0, "auto", "auto", False)
    assert set(found.sources.values()) == {DEFAULT}


def test_an_option_precedes_the_environment_and_that_a_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.phi3_lora_qa]\nseed = 1\nbase = 'file'\n")
    everywhere = settings(tmp_path, {"seed": 4}, {"PHI3_LORA_QA_SEED": "3"}, {"seed": 2})
    assert (everywhere.seed, everywhere.sources["seed"].place) == (4, "--phi3-seed")
    no_option = settings(tmp_path, {}, {"PHI3_LORA_QA_SEED": "3"}, {"seed": 2})
    assert (no_option.seed, no_option.sources["seed"].place) == (3, "PHI3_LORA_QA_SEED")
    file_only = settings(tmp_path)
    assert file_only.seed == 1
    assert file_only.sources["seed"].place.endswith("pyproject.toml")


def test_a_number_in_pytests_own_configuration_is_parsed_from_text(tmp_path: Path) -> None:
    assert settings(tmp_path, ini={"seed": "6"}).seed == 6
    with pytest.raises(InputError, match=r"phi3_seed.*whole number"):
        settings(tmp_path, ini={"seed": "six"})


def test_the_settings_file_precedes_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.phi3_lora_qa]\nbase = 'a'\n")
    (tmp_path / "phi3-lora-qa.toml").write_text("base = 'b'\n")
    assert settings(tmp_path).base == "b"


def test_a_path_in_a_file_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "phi3-lora-qa.toml").write_text("adapter = ['a']\nthresholds = 't.toml'\n")
    found = settings(tmp_path)
    assert found.adapter == (tmp_path / "a",)
    assert found.thresholds == tmp_path / "t.toml"


def test_lists_in_the_environment_are_separated_by_commas(tmp_path: Path) -> None:
    found = settings(tmp_path, {}, {"PHI3_LORA_QA_STAGE": "static, math"})
    assert found.stage == ("static", "math")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 'x'", "whole number"),
        ("seed = true", "whole number"),
        ("only = 1", "true or false"),
        ("stage = 'static'", "a list"),
        ("stage = ['maths']", "static, math"),
        ("dtype = 'int8'", "float32"),
        ("base = 3", "a string"),
        ("sed = 1", "unknown setting sed"),
        ("seed = ", "fix the TOML"),
        (f"seed = {'[' * 100_000}", "fix the TOML"),
    ],
)
def test_an_invalid_value_is_reported_with_the_fix(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "phi3-lora-qa.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        settings(tmp_path)


@pytest.mark.parametrize("text", ["x", "--5", "²", "1.5"])
def test_an_invalid_number_in_the_environment_is_reported(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"PHI3_LORA_QA_SEED.*whole number"):
        settings(tmp_path, {}, {"PHI3_LORA_QA_SEED": text})


@pytest.mark.parametrize(
    "text",
    [
        "transformers",
        "openai:http://localhost:8000/v1",
        "openai:https://models.example.org/v1/",
        "openai:http://[::1]:8000/v1",
        "openai:http://127.0.0.1",
    ],
)
def test_a_backend_is_transformers_or_the_address_of_a_server(tmp_path: Path, text: str) -> None:
    found = settings(tmp_path, {"backend": text})
    assert found.backend == text
    assert server_of(text) == text.removeprefix("openai:").removesuffix("/").removeprefix(
        "transformers"
    )


@pytest.mark.parametrize(
    "text",
    [
        "vllm",
        "transformers ",
        "openai",
        "openai:",
        "openai:localhost:8000",
        "openai:ftp://localhost/v1",
        "openai:http:///v1",
        "openai:http://localhost:port/v1",
        "openai:http://localhost:99999/v1",
        "openai:http://[::1/v1",
        "openai:http://localhost/v1?key=1",
        "openai:http://localhost/v1#a",
        "openai:http://local host/v1",
        "openai:http://localhost/v1\n",
        "OPENAI:http://localhost/v1",
    ],
)
def test_another_backend_is_rejected_with_both_forms(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"--phi3-backend: .*transformers, or openai:URL"):
        settings(tmp_path, {"backend": text})
    assert server_of(text) == ""


def test_a_password_in_a_server_url_is_rejected_and_not_printed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a valid backend") as caught:
        settings(tmp_path, {"backend": "openai:https://me:hush@models.example.org/v1"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("where", [".", "inside", "linked"])
@pytest.mark.parametrize("file", ["phi3-lora-qa.toml", "pyproject.toml", "pytest.ini"])
def test_settings_in_an_adapters_own_folder_are_rejected(
    tmp_path: Path, file: str, where: str
) -> None:
    adapter = tmp_path / "adapter"
    (adapter / "inside").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(adapter)
    place = tmp_path / where if where == "linked" else adapter / where
    text = {"phi3-lora-qa.toml": "", "pyproject.toml": "[tool.phi3_lora_qa]\n", "pytest.ini": ""}
    (place / file).write_text(text[file] + "lint_ignore = ['config-refused']\n")
    ini = {"lint_ignore": ["config-refused"]} if file == "pytest.ini" else {}
    with pytest.raises(InputError, match=r"adapter's own folder.*; run from"):
        resolve({"adapter": [str(adapter)]}, {}, ini, place, place)
    assert resolve({"adapter": [str(tmp_path / "other")]}, {}, ini, place, place).lint_ignore


def test_an_adapters_folder_without_settings_may_be_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert settings(tmp_path, {"adapter": ["."]}).adapter == (tmp_path / ".",)


@pytest.mark.parametrize(
    ("given", "ini", "variable"),
    [
        ({"adapter": [""]}, {}, None),
        ({"adapter": ["  "]}, {}, None),
        ({"adapter": ["a", ""]}, {}, None),
        ({}, {"adapter": []}, None),
        ({}, {}, ""),
        ({}, {}, " "),
        ({}, {}, "a,,b"),
    ],
)
def test_an_empty_adapter_is_rejected(
    tmp_path: Path, given: dict[str, object], ini: dict[str, object], variable: str | None
) -> None:
    environment = {} if variable is None else {"PHI3_LORA_QA_ADAPTER": variable}
    with pytest.raises(InputError, match="the adapter's path is empty, so nothing would be gated"):
        settings(tmp_path, given, environment, ini)


def test_an_empty_list_of_adapters_is_rejected_and_other_variables_may_be_empty(
    tmp_path: Path,
) -> None:
    assert settings(tmp_path, {}, {"PHI3_LORA_QA_BASE": "", "PHI3_LORA_QA_ONLY": ""}).base is None
    assert settings(tmp_path, {}, {"PHI3_LORA_QA_ADAPTER": "a, b"}).adapter == (
        tmp_path / "a",
        tmp_path / "b",
    )
    (tmp_path / "phi3-lora-qa.toml").write_text("adapter = []\n")
    with pytest.raises(InputError, match="path is empty"):
        settings(tmp_path)


def test_only_is_rejected_if_nothing_would_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing would run: --phi3-only .*; pass one"):
        settings(tmp_path, {"only": True})
    with pytest.raises(InputError, match="PHI3_LORA_QA_ONLY"):
        settings(tmp_path, {}, {"PHI3_LORA_QA_ONLY": "1"})
    assert settings(tmp_path, {"only": True, "layers": True}).only
    assert settings(tmp_path, {"only": True, "adapter": ["a"]}).only
    assert settings(tmp_path, ini={"only": True}).only


def test_a_folder_is_recognised_by_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a case-insensitive file system: two names of a folder without a link between them."""
    (tmp_path / "adapter" / "below").mkdir(parents=True)
    (tmp_path / "ADAPTER").symlink_to(tmp_path / "adapter")
    monkeypatch.setattr(settings_module, "real", lambda path: path)
    assert is_inside([tmp_path / "adapter"], tmp_path / "ADAPTER" / "below" / "conftest.py")
    assert not is_inside([tmp_path / "adapter"], tmp_path / "conftest.py")
    assert not is_inside([tmp_path / "none"], tmp_path / "adapter")


def test_a_random_order_is_drawn_unless_one_is_set(tmp_path: Path) -> None:
    found = [with_order(settings(tmp_path)) for _ in range(20)]
    assert len({one.order for one in found}) > 15
    assert all(0 <= one.order <= LARGEST_SEED for one in found)
    assert {one.sources["order"] for one in found} == {DRAWN}
    given = settings(tmp_path, {"order": "7"})
    assert (with_order(given).order, with_order(given).sources["order"].place) == (
        7,
        "--phi3-order",
    )
    # A seed does not set the order: it may be in a file that an adapter's author can read.
    assert with_order(settings(tmp_path, {"seed": "7"})).sources["order"] == DRAWN


def test_a_report_folder_as_baseline_means_its_record(tmp_path: Path) -> None:
    (tmp_path / "accepted").mkdir()
    found = settings(tmp_path, {"adapter": ["a"], "baseline": "accepted"})
    assert found.baseline == tmp_path / "accepted" / "record.json"
