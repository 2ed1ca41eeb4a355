"""Run the package with the lowest and the newest libraries that pyproject.toml allows.

For each Python version and each of the two sets: resolve it, install it with the built wheel into
a new environment, gate the bundled adapter with both forms of the option, train a few steps, lint
the trained adapter, and test the layers. Writes docs/compatibility.md and, if everything passed,
the versions that error messages name. Usage: python benchmarks/compat.py [--python 3.12]
"""

import argparse
import itertools
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

from phi3_lora_qa.libraries import TESTED_FILE

ROOT = Path(__file__).parent.parent
TINY = ROOT / "fixtures" / "tiny"
PAGE = ROOT / "docs" / "compatibility.md"
TESTED = ROOT / "phi3_lora_qa" / TESTED_FILE
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
         "safetensors", "numpy", "pandas", "pytest", "hypothesis")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """The result of one set on one Python: each step's error, empty if it passed."""

    python: str
    which: str
    versions: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all steps passed."""
        return set(self.errors) == {INSTALL, *STEPS} and not any(self.errors.values())


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment with the wheel, and a work folder that is not a checkout."""

    bin: Path
    folder: Path

    def run(self, *words: str, cwd: Path | None = None) -> str:
        """Run a command of the environment; return the end of its output if it failed."""
        return _run([str(self.bin / words[0]), *words[1:]], cwd or self.folder)

    def gate_one_word(self) -> str:
        """Gate the bundled adapter, with the option and its value in one word."""
        return self._gate("one", [f"--phi3-adapter={self._adapter('one')}"])

    def gate_two_words(self) -> str:
        """Gate an adapter in another project, whose options must have no effect."""
        adapter = self._adapter("theirs")
        (adapter.parent / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
        return self._gate("mine", ["--phi3-adapter", str(adapter)])

    def train(self) -> str:
        """Train a few steps, and lint the trained adapter."""
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
    """Run every set, write the page, and exit with 1 unless all requested sets passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only this version")
    parser.add_argument("--set", action="append", choices=tuple(RESOLUTIONS), help="only this set")
    chosen = parser.parse_args()
    pythons, sets = chosen.python or PYTHONS, chosen.set or tuple(RESOLUTIONS)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".compat-") as folder:
        wheel = _wheel(Path(folder))
        results = [
            _run_set(Path(folder), wheel, python, which) for python in pythons for which in sets
        ]
    whole = pythons == PYTHONS and sets == tuple(RESOLUTIONS)
    if whole:
        PAGE.write_text(_page(results), encoding="utf-8")
    if whole and all(result.passed for result in results):
        TESTED.write_text(json.dumps(_tested_versions(results), indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(result.passed for result in results))


def _run_set(folder: Path, wheel: Path, python: str, which: str) -> SetResult:
    """Create one environment, run every step in it, and delete it: it takes gigabytes."""
    interpreter = _interpreter(python)
    if interpreter is None:
        print(f"Python {python}, {which}: not run: Python {python} is not installed", flush=True)
        return SetResult(python=python, which=which)
    place = folder / f"{python}-{which}"
    errors: dict[str, str] = {}
    versions: Mapping[str, str] = {}
    try:
        errors[INSTALL] = _install(place, wheel, interpreter, python, which)
        versions = {} if errors[INSTALL] else _versions(place)
        # In another place: inside this checkout, pytest would use its configuration.
        with tempfile.TemporaryDirectory() as work:
            environment = Environment(bin=place / "venv" / "bin", folder=Path(work))
            for step, method in STEPS.items() if versions else ():
                errors[step] = getattr(environment, method)()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    for step, error in errors.items():
        print(f"Python {python}, {which}, {step}: {error or 'passed'}", flush=True)
    return SetResult(python=python, which=which, versions=versions, errors=errors)


def _wheel(folder: Path) -> Path:
    if error := _run([_tool("uv"), "build", "--quiet", "--wheel", "--out-dir", str(folder)], ROOT):
        sys.exit(f"the wheel cannot be built: {error}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _install(place: Path, wheel: Path, interpreter: Path, python: str, which: str) -> str:
    """Resolve the versions of pyproject.toml, and install exactly these."""
    place.mkdir()
    uv, pins, venv = _tool("uv"), place / "pins.txt", place / "venv"
    pip = [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python")]
    commands = [
        [uv, "pip", "compile", "--quiet", "--extra", "all", "--output-file", str(pins),
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
    """Find a working interpreter; pyenv's commands on the PATH may not work."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    named = shutil.which(f"python{python}")
    places = [*([Path(named)] if named else []), *pyenv.glob(f"versions/{python}.*/bin/python")]
    return next((p for p in places if not _run([str(p), "--version"], ROOT)), None)


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run(command: Sequence[str], cwd: Path) -> str:
    """Return the end of a command's output if it failed; empty if it exited with 0."""
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


def _tested_versions(results: Sequence[SetResult]) -> dict[str, dict[str, str]]:
    """Return the versions of every required library that ran on every Python."""
    pick = {"lowest": max, "newest": min}
    return {
        name: {
            which: str(choose(Version(t.versions[name]) for t in results if t.which == which))
            for which, choose in pick.items()
        }
        for name in sorted({n for result in results for n in result.versions} & _required())
    }


def _required() -> set[str]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [
        project["optional-dependencies"][name] for name in ("tokenizer", "gate", "train", "loralib")
    ]
    texts = (*project["dependencies"], *itertools.chain(*extras))
    return {Requirement(text).name for text in texts} - {project["name"]}


def _page(results: Sequence[SetResult]) -> str:
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Sequence[SetResult]) -> Iterator[str]:
    yield "# Compatibility"
    yield ""
    yield "The versions that `pyproject.toml` allows are tested: `make compat` resolves the lowest"
    yield "and the newest of them, installs each set with the built wheel into a new environment,"
    yield "and runs the package there. This page is its last result, on"
    yield f"{platform.system()} {platform.machine()}."
    yield ""
    yield "| Python | set | " + " | ".join((INSTALL, *STEPS)) + " |"
    yield "|---|---|" + "---|" * (1 + len(STEPS))
    for result in results:
        cells = [_cell(result.errors.get(step)) for step in (INSTALL, *STEPS)]
        yield f"| {result.python} | {result.which} | " + " | ".join(cells) + " |"
    yield ""
    yield "The most important versions of each set:"
    yield ""
    yield "| library | " + " | ".join(f"{t.python} {t.which}" for t in results) + " |"
    yield "|---|" + "---|" * len(results)
    for name in SHOWN:
        yield f"| {name} | " + " | ".join(t.versions.get(name, "-") for t in results) + " |"
    yield ""
    yield "Private parts of these libraries are looked up on first use. If one is missing, the"
    yield "error names the library, its version, and a version that works. If the fast scoring"
    yield "engine does not work, the plain one replaces it (`--phi3-engine`)."


def _cell(error: str | None) -> str:
    if error is None:
        return "not run"
    return "failed" if error else "passed"


if __name__ == "__main__":
    main()
