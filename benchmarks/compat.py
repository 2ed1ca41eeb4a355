"""Run the package on the lowest and the newest libraries that pyproject.toml allows.

For each Python version and each of the two sets: resolve it, install it with the built wheel into
a fresh environment, gate the bundled adapter by both spellings of the option, train a few steps and
lint what comes out, and test the layers. Writes docs/compatibility.md; and, where everything
passed, the versions that error messages name. Usage: python benchmarks/compat.py [--python 3.12]
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from phi3_lora_qa.libraries import TRIED_FILE

ROOT = Path(__file__).parent.parent
TINY = ROOT / "fixtures" / "tiny"
PAGE = ROOT / "docs" / "compatibility.md"
TRIED = ROOT / "phi3_lora_qa" / TRIED_FILE
PYTHONS = ("3.11", "3.12", "3.13")
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
INSTALL = "install"
STEPS = {
    "gate `--phi3-adapter=PATH`": "gate_one_word",
    "gate `--phi3-adapter PATH`": "gate_two_words",
    "train, lint": "train",
    "`--phi3-layers`": "layers",
}
SHOWN = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "tokenizers",
         "safetensors", "numpy", "pandas", "scipy", "pytest", "hypothesis")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of one set on one Python: each step's error, empty where it passed."""

    python: str
    which: str
    versions: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every step ran and passed."""
        return set(self.errors) == {INSTALL, *STEPS} and not any(self.errors.values())


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment with the wheel, and a folder to work in that is no checkout."""

    bin: Path
    folder: Path

    def run(self, *words: str, cwd: Path | None = None) -> str:
        """Run a command of the environment; return the end of its output where it failed."""
        return _run([str(self.bin / words[0]), *words[1:]], cwd or self.folder)

    def gate_one_word(self) -> str:
        """Gate the bundled adapter, beside the command."""
        return self._gate("one", [f"--phi3-adapter={self._adapter('one')}"])

    def gate_two_words(self) -> str:
        """Gate one that lies in a project of its own, whose options must not count."""
        adapter = self._adapter("theirs")
        (adapter.parent / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
        return self._gate("mine", ["--phi3-adapter", str(adapter)])

    def train(self) -> str:
        """Train a few steps, and let the linter accept what comes out."""
        few = ("max_steps=4", "eval_strategy=no", "save_strategy=no")
        settings = [f"--set=training.{setting}" for setting in few]
        out = self.folder / "trained"
        return self.run(
            "phi3-lora-qa", "train", str(TINY / "train.toml"), f"--set=output.dir={out}", *settings
        ) or self.run("phi3-lora-qa", "lint", str(out), "--base", "tiny")

    def layers(self) -> str:
        """Run the property suite on the layers of the installed peft and loralib."""
        return self.run("python", "-m", "pytest", "-q", "--phi3-layers", "--phi3-only")

    def _adapter(self, place: str) -> Path:
        target = self.folder / place / "adapter"
        shutil.copytree(TINY / "adapter", target)
        return target

    def _gate(self, place: str, option: Sequence[str]) -> str:
        folder = self.folder / place
        folder.mkdir(parents=True, exist_ok=True)
        words = ["python", "-m", "pytest", "-q", *option, "--phi3-base=tiny", "--phi3-only"]
        failed = self.run(*words, "--phi3-report=report", cwd=folder)
        record = folder / "report" / "record.json"
        if failed or not record.is_file():
            return failed or "there is no record"
        verdict = json.loads(record.read_text())["verdict"]
        return "" if verdict == "PASS" else f"the verdict is {verdict}"


def main() -> None:
    """Try every set, write the page, and end with 1 unless all that was asked for passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only this version")
    parser.add_argument("--set", action="append", choices=tuple(RESOLUTIONS), help="only this set")
    chosen = parser.parse_args()
    pythons, sets = chosen.python or PYTHONS, chosen.set or tuple(RESOLUTIONS)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".compat-") as folder:
        wheel = _wheel(Path(folder))
        found = [_try(Path(folder), wheel, python, which) for python in pythons for which in sets]
    whole = pythons == PYTHONS and sets == tuple(RESOLUTIONS)
    if whole:
        PAGE.write_text(_page(found), encoding="utf-8")
    if whole and all(tried.passed for tried in found):
        TRIED.write_text(json.dumps(_tried(found), indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(tried.passed for tried in found))


def _try(folder: Path, wheel: Path, python: str, which: str) -> Tried:
    """Build one environment, run every step in it, and remove it again: it takes gigabytes."""
    interpreter = _interpreter(python)
    if interpreter is None:
        print(f"Python {python}, {which}: not run, there is no Python {python} here", flush=True)
        return Tried(python=python, which=which)
    place = folder / f"{python}-{which}"
    errors: dict[str, str] = {}
    versions: Mapping[str, str] = {}
    try:
        errors[INSTALL] = _install(place, wheel, interpreter, python, which)
        versions = {} if errors[INSTALL] else _versions(place)
        # Elsewhere: below this checkout pytest would take its configuration.
        with tempfile.TemporaryDirectory() as work:
            environment = Environment(bin=place / "venv" / "bin", folder=Path(work))
            for step, method in STEPS.items() if versions else ():
                errors[step] = getattr(environment, method)()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    for step, error in errors.items():
        print(f"Python {python}, {which}, {step}: {error or 'passed'}", flush=True)
    return Tried(python=python, which=which, versions=versions, errors=errors)


def _wheel(folder: Path) -> Path:
    if error := _run([_tool("uv"), "build", "--quiet", "--wheel", "--out-dir", str(folder)], ROOT):
        sys.exit(f"the wheel cannot be built: {error}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _install(place: Path, wheel: Path, interpreter: Path, python: str, which: str) -> str:
    """Resolve from pyproject.toml, where the promises are, and install without a further look."""
    place.mkdir()
    uv, pins, venv = _tool("uv"), place / "pins.txt", place / "venv"
    pip = [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python")]
    commands = [
        [uv, "pip", "compile", "--quiet", "--extra", "loralib", "--output-file", str(pins),
         "--python-version", python, "--resolution", RESOLUTIONS[which],
         str(ROOT / "pyproject.toml")],
        [uv, "venv", "--quiet", "--python", str(interpreter), str(venv)],
        [*pip, "--requirements", str(pins)],
        [*pip, "--no-deps", str(wheel)],
    ]  # fmt: skip
    return next((error for command in commands if (error := _run(command, place))), "")


def _versions(place: Path) -> dict[str, str]:
    pins = (place / "pins.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", pins, re.MULTILINE))


def _interpreter(python: str) -> Path | None:
    """Find an interpreter that runs; pyenv's names on the PATH need not."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    named = shutil.which(f"python{python}")
    places = [*([Path(named)] if named else []), *pyenv.glob(f"versions/{python}.*/bin/python")]
    return next((p for p in places if not _run([str(p), "--version"], ROOT)), None)


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run(command: Sequence[str], cwd: Path) -> str:
    """Return nothing where a command ends with 0, and else the end of what it printed."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS", "PHI3_LORA_QA_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    clean["PHI3_LORA_QA_CACHE_SCORES"] = "off"
    done = subprocess.run(
        command, cwd=cwd, env=clean, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    return f"exit status {done.returncode}: " + " / ".join(
        (done.stdout + done.stderr).strip().splitlines()[-6:]
    )


def _tried(found: Sequence[Tried]) -> dict[str, dict[str, str]]:
    """Of every library that is promised, the versions that ran on every Python."""
    pick = {"lowest": max, "newest": min}
    return {
        name: {
            which: str(choose(Version(t.versions[name]) for t in found if t.which == which))
            for which, choose in pick.items()
        }
        for name in sorted({n for tried in found for n in tried.versions} & _promised())
    }


def _promised() -> set[str]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]["loralib"]
    return {Requirement(text).name for text in (*project["dependencies"], *extras)}


def _page(found: Sequence[Tried]) -> str:
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Sequence[Tried]) -> Iterator[str]:
    yield "# Compatibility"
    yield ""
    yield "What `pyproject.toml` promises is what was tried: `make compat` resolves the lowest and"
    yield "the newest versions that it allows, installs each set with the built wheel into a fresh"
    yield "environment, and runs the package there. This page is its last result, on"
    yield f"{platform.system()} {platform.machine()}."
    yield ""
    yield "| Python | set | " + " | ".join((INSTALL, *STEPS)) + " |"
    yield "|---|---|" + "---|" * (1 + len(STEPS))
    for tried in found:
        cells = [_cell(tried.errors.get(step)) for step in (INSTALL, *STEPS)]
        yield f"| {tried.python} | {tried.which} | " + " | ".join(cells) + " |"
    yield ""
    yield "The sets, by what matters most:"
    yield ""
    yield "| library | " + " | ".join(f"{t.python} {t.which}" for t in found) + " |"
    yield "|---|" + "---|" * len(found)
    for name in SHOWN:
        yield f"| {name} | " + " | ".join(t.versions.get(name, "-") for t in found) + " |"
    yield ""
    yield "Parts of these libraries that are not public are asked for when they are first used;"
    yield "where one is gone, the error names the library, its version and one that works."


def _cell(error: str | None) -> str:
    if error is None:
        return "not run"
    return "failed" if error else "passed"


if __name__ == "__main__":
    main()
