"""Without the extras, light commands work; every other one says the pip command, with status 2."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from phi3_lora_qa.cli import app
from phi3_lora_qa.data.item_table import items_as_parquet
from phi3_lora_qa.extras import EXTRAS
from phi3_lora_qa.models.registry import bundled
from tests.adapter.adapters import plain
from tests.adapter.faults import spoil
from tests.adapter.shards import save_shards
from tests.blocked_modules import run_without
from tests.cli.foreign_adapters import kohya, mlx, torchtune
from tests.report.builders import items

MODULES = {module for names in EXTRAS.values() for module in names} | {"scipy"}
TINY = bundled("tiny")
SAMPLE = Path(__file__).parents[3] / "reports" / "sample"

WORKS: dict[str, list[list[str]]] = {
    "lint": [["adapter"], ["adapter", "--base", "tiny"]],
    "lint-files": [["adapter/adapter_config.json"]],
    "explain": [["values-nan"]],
    "report": [["report"]],
    "suite check": [["suite.jsonl"], ["suite.jsonl", "--train", "train.jsonl"]],
    "base list": [[]],
    "base info": [["tiny"]],
    "base fetch": [["tiny"]],
    "convert join-shards": [["shards", "-o", "joined"]],
}
NEEDS: dict[tuple[str, str], list[list[str]]] = {
    ("train", "train"): [["train.toml"]],
    ("demo", "train"): [[]],
    ("convert fuse", "gate"): [["adapter", "--base", "tiny", "-o", "x"]],
    ("convert mlx-to-peft", "gate"): [["mlx", "--base", "tiny", "-o", "x"]],
    ("convert kohya-to-peft", "gate"): [["kohya.safetensors", "--base", "tiny", "-o", "x"]],
    ("convert torchtune-to-peft", "gate"): [
        ["adapter_model.safetensors", "--base", "tiny", "--alpha", "8", "-o", "x"]
    ],
    ("convert peft-to-loralib", "gate"): [["adapter", "-o", "x.safetensors"]],
    ("convert loralib-to-peft", "gate"): [
        ["state.safetensors", "--base", "tiny", "--alpha", "1", "-o", "x"]
    ],
    ("lint", "tokenizer"): [
        ["adapter", "--base", "owner/name"],
        ["with-tokenizer", "--base", "tiny"],
    ],
    ("suite check", "tokenizer"): [["suite.jsonl", "--base", "tiny"]],
    ("suite check", "gate"): [["suite.parquet"], ["folder"]],
    ("base fetch", "tokenizer"): [["phi3-mini-4k"]],
}
"""The arguments with which a command needs an extra, by the command and the extra."""


def commands(group: click.Group, above: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} ")
        else:
            yield above + name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("light")
    shutil.copytree(TINY / "adapter", place / "adapter")
    shutil.copytree(SAMPLE, place / "report")
    for name in ("suite.jsonl", "train.jsonl", "train.toml", "validation.jsonl"):
        shutil.copy(TINY / name, place)
    (place / "suite.parquet").write_bytes(items_as_parquet(items(3)))
    (place / "folder").mkdir()
    shutil.copy(TINY / "adapter" / "adapter_model.safetensors", place / "state.safetensors")
    (place / "mlx").mkdir()
    mlx(place / "mlx")
    kohya(place)
    torchtune(place)
    save_shards(plain(), place / "shards")
    with_tokenizer = place / "with-tokenizer"
    no_manifest = shutil.ignore_patterns("lora_qa_manifest.json")
    shutil.copytree(TINY / "adapter", with_tokenizer, ignore=no_manifest)
    settings = with_tokenizer / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("{", '{"legacy": false, ', 1))
    return place


def test_every_command_is_tried() -> None:
    assert set(commands(app)) == set(WORKS) | {name for name, _ in NEEDS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [[*name.split(), *tail] for name, tails in WORKS.items() for tail in tails], ids=str
)
def test_a_light_command_works(words: list[str], folder: Path) -> None:
    page = (folder / "report" / "report.html").read_bytes()
    done = run_without(MODULES, ["phi3_lora_qa", *words], folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert (folder / "report" / "report.html").read_bytes() == page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "extra"),
    [([*name.split(), *tail], extra) for (name, extra), tails in NEEDS.items() for tail in tails],
    ids=str,
)
def test_any_other_command_says_what_to_install(words: list[str], extra: str, folder: Path) -> None:
    done = run_without(MODULES, ["phi3_lora_qa", *words], folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f'run: pip install "phi3-lora-qa[{extra}]"\n')
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "x").exists()


@pytest.mark.slow
def test_an_error_rejects_an_adapter_even_if_its_tokenizer_cannot_be_tested(
    folder: Path, tmp_path: Path
) -> None:
    bad = spoil(plain(), "nan", 0.5).save(tmp_path / "bad")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "with-tokenizer" / name, bad)
    done = run_without(MODULES, ["phi3_lora_qa", "lint", "bad", "--base", "tiny"], tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "values-nan" in done.stdout
    assert 'need the tokenizer libraries (pip install "phi3-lora-qa[tokenizer]")' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    ["--phi3-adapter=adapter", "--phi3-layers", "--phi3-adapter=adapter -p no:phi3_lora_qa"],
)
def test_pytest_says_what_to_install(option: str, folder: Path) -> None:
    command = ["pytest", "-p", "no:randomly", *option.split()]
    done = run_without(MODULES - {"pytest"}, command, folder)
    assert done.returncode == 2
    assert 'run: pip install "phi3-lora-qa[gate]"' in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_pytest_without_an_adapter_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine(): pass\n")
    command = ["pytest", "-p", "no:randomly", "-p", "no:hypothesispytest", "-q"]
    done = run_without(MODULES - {"pytest"}, command, tmp_path)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout + done.stderr
