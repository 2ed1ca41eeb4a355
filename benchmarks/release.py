"""Build the archives of a release, and try the wheel in clean environments; upload nothing.

Builds the sdist, and the wheel from it, checks both with twine, installs the wheel alone and uses
the light commands, then installs the extra ``all`` and gates the bundled adapter. Fails if the
light installation is too large. Usage: python benchmarks/release.py [--light-only]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_MEGABYTES, MOST_SECONDS = 120, 10


def main() -> None:
    """Build and try; exit with 1 at the first step that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--light-only", action="store_true", help="leave out the gate")
    light_only = parser.parse_args().light_only
    dist = ROOT / "dist"
    for old in dist.glob("phi3_lora_qa-*"):
        old.unlink()
    _run(sys.executable, "-m", "build", "--outdir", str(dist), cwd=ROOT)
    archives = sorted(map(str, dist.glob("phi3_lora_qa-*")))
    _run(sys.executable, "-m", "twine", "check", "--strict", *archives, cwd=ROOT)
    (wheel,) = dist.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        _try_light(wheel, Path(folder))
        if not light_only:
            _try_gate(wheel, Path(folder))
    print("ready to upload: " + " ".join(archives))


def _try_light(wheel: Path, folder: Path) -> None:
    for place in ("first", "venv"):  # the first is for the downloads, which are not measured
        venv.create(folder / place, with_pip=True)
        python = str(folder / place / "bin" / "python")
        added, seconds, used = _install(python, wheel)
    print(
        f"light installation: {added:.0f} MB, {seconds:.1f} s with cached downloads, of which "
        f"{used:.1f} s of processor time"
    )
    # Not the time that passed: other programs may be running.
    if added > MOST_MEGABYTES or used > MOST_SECONDS:
        sys.exit(f"more than {MOST_MEGABYTES} MB or {MOST_SECONDS} s")
    command = str(folder / "venv" / "bin" / "phi3-lora-qa")
    print(_run(command, "--version").strip())
    tiny = _bundled(python)
    _run(command, "lint", str(tiny / "adapter"), "--base", "tiny")
    _run(command, "explain", "values-nan")
    _run(command, "suite", "check", str(tiny / "suite.jsonl"))


def _install(python: str, wheel: Path) -> tuple[float, float, float]:
    """Return the megabytes that were added, and the seconds and processor seconds that it took."""
    site = Path(
        _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    before = _megabytes(site)
    began, children = time.monotonic(), _processor_seconds()
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    seconds, used = time.monotonic() - began, _processor_seconds() - children
    return _megabytes(site) - before, seconds, used


def _processor_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _bundled(python: str) -> Path:
    code = "from phi3_lora_qa.models.registry import bundled; print(bundled('tiny'))"
    return Path(_run(python, "-c", code).strip())


def _try_gate(wheel: Path, folder: Path) -> None:
    python = str(folder / "venv" / "bin" / "python")
    constraints = str(ROOT / "constraints.txt")
    _run(python, "-m", "pip", "install", "--quiet", "-c", constraints, f"{wheel}[all]")
    tiny = _bundled(python)
    adapter = f"--phi3-adapter={tiny / 'adapter'}"
    report = folder / "report"
    _run(python, "-m", "pytest", "-q", adapter, "--phi3-base=tiny", f"--phi3-report={report}")
    print(f"gate: {json.loads((report / 'record.json').read_text())['verdict']}")
    command = str(folder / "venv" / "bin" / "phi3-lora-qa")
    _run(command, "report", str(report))
    steps = ("--set=training.max_steps=4", f"--set=output.dir={folder / 'trained'}")
    _run(command, "train", str(tiny / "train.toml"), *steps)


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _run(*command: str, cwd: Path | None = None) -> str:
    """Run a command outside of the checkout; exit with its output if it fails."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            command, cwd=cwd or empty, env=clean, capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-4_000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
