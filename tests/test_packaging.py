"""The wheel is complete: it is enough to gate an adapter of the tiny base."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_contains_the_bundled_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "phi3_lora_qa/py.typed",
        "phi3_lora_qa/record.schema.json",
        "phi3_lora_qa/report/templates/report.html.j2",
        "phi3_lora_qa/bundled/tiny/base/model.safetensors",
        "phi3_lora_qa/bundled/tiny/suite.jsonl",
        "phi3_lora_qa/bundled/smollm2/general.jsonl",
        "phi3_lora_qa/bundled/general/suite.jsonl",
        "phi3_lora_qa/bundled/general/thresholds.toml",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "fixtures/"))]
    assert wheel.stat().st_size < 4_000_000


def test_the_source_archive_has_the_bundled_data_once(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert [name for name in names if name.endswith("tiny/base/model.safetensors")] == [
        "phi3_lora_qa/bundled/tiny/base/model.safetensors"
    ]
    assert "phi3_lora_qa/record.schema.json" in names


def test_the_installed_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import phi3_lora_qa\n"
        "from phi3_lora_qa.models.registry import bundled_suite, resolve_base\n"
        "ref = resolve_base('tiny')\n"
        "print(phi3_lora_qa.__file__, ref.folder, bundled_suite(ref), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    for line in done.stdout.splitlines():
        assert line.startswith(str(tmp_path / "site")), line
        assert Path(line).exists()
