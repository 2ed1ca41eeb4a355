"""A disabled plugin refuses a run with an adapter."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("asked", ["option", "environment", "configuration", "file", "empty"])
def test_a_disabled_plugin_refuses_a_run_with_an_adapter(
    asked: str, pytester: pytest.Pytester, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "test_own.py").write_text("def test_own(): pass\n")
    off = ("-p", "no:phi3_lora_qa")
    assert pytester.runpytest_subprocess(*off).ret == 0
    if asked == "configuration":
        (pytester.path / "pytest.ini").write_text(
            f"[pytest]\naddopts = -p no:phi3_lora_qa\nphi3_adapter = {good_adapter}\n"
        )
    elif asked == "file":
        (pytester.path / "phi3-lora-qa.toml").write_text(f"adapter = ['{good_adapter}']\n")
    elif asked != "option":
        path = str(good_adapter) if asked == "environment" else ""
        monkeypatch.setenv("PHI3_LORA_QA_ADAPTER", path)
    args = (f"--phi3-adapter={good_adapter}",) if asked == "option" else ()
    for more in ((), ("-n2",)):
        result = pytester.runpytest_subprocess(*off, *args, *more)
        assert result.ret == 2, result.stdout.str()
        said = [line for line in result.stderr.lines if line.startswith("Exit: ")]
        assert len(said) == 1
        assert (
            "is empty"
            if asked == "empty"
            else "-p no:phi3_lora_qa disables the plugin, but an adapter is given by"
        ) in said[0]
