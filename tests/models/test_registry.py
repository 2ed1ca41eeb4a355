"""A base is found by name, hub id or folder, without torch and without a network."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models import registry
from phi3_lora_qa.models.registry import (
    BaseRef,
    bundled,
    bundled_suite,
    find_folder,
    known_bases,
    read_base_config,
    resolve_base,
)
from tests.models.builders import write_smollm2

MINI = "microsoft/Phi-3-mini-4k-instruct"


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_finding_a_base_does_not_import_torch() -> None:
    code = (
        "import sys\n"
        "from phi3_lora_qa.models.registry import *\n"
        "read_base_config(resolve_base('tiny')), [find_folder(k) for k in known_bases()]\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_names_and_ids_are_unique_and_refer_to_the_same_base(hub_cache: Path) -> None:
    names = [name for known in known_bases() for name in {known.name, known.id}]
    assert len(names) == len(set(names))
    assert resolve_base("phi3-mini-4k") == resolve_base(MINI)
    assert resolve_base(MINI) == BaseRef(id=MINI, folder=None, name="phi3-mini-4k")


def test_tiny_ships_with_the_package() -> None:
    ref = resolve_base("tiny")
    assert (ref.id, ref.name, ref.folder) == ("tiny", "tiny", bundled("tiny/base"))
    assert read_base_config(ref)["model_type"] == "phi3"


def test_the_folder_of_a_known_base_is_that_base() -> None:
    assert resolve_base(str(bundled("tiny/base"))) == resolve_base("tiny")


def test_a_folder_cannot_take_the_place_of_a_known_base(
    toy: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy.parent)
    for name in ("tiny", MINI):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(toy)
    assert resolve_base("tiny").folder == bundled("tiny/base")
    assert resolve_base(MINI).folder is None
    assert resolve_base("./tiny").folder == toy


def test_a_folder_with_a_config_is_a_base(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.parent)
    assert resolve_base("toy") == BaseRef(id=str(toy), folder=toy, name="toy")


@pytest.mark.parametrize(
    "reference", ["", "nowhere", "someone/else", "a\0b", "~nobody-here/x", "x" * 5000]
)
def test_an_unknown_reference_is_refused_with_the_alternatives(reference: str) -> None:
    with pytest.raises(
        BaseModelError, match=r"neither a known name nor.*pass one of tiny, .*folder"
    ) as e:
        resolve_base(reference)
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 500


def test_a_file_and_a_folder_without_a_model_have_different_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BaseModelError, match=r"is a file, not a folder; pass the folder"):
        resolve_base(str(tmp_path / "file"))
    with pytest.raises(BaseModelError, match=r"has no config.json; pass the folder"):
        resolve_base(str(tmp_path))


def test_a_base_that_must_be_built_is_refused_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path))
    with pytest.raises(BaseModelError, match=r"run: phi3-lora-qa base fetch smollm2$"):
        resolve_base("smollm2")


def test_a_built_base_is_found_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path))
    folder = write_smollm2(tmp_path)
    assert resolve_base("smollm2") == BaseRef(id="smollm2", folder=folder, name="smollm2")


def test_a_hub_base_is_found_in_the_hubs_cache_without_a_network(hub_cache: Path) -> None:
    assert read_base_config(resolve_base(MINI)) == {}
    repository = hub_cache / "models--microsoft--Phi-3-mini-4k-instruct"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text('{"model_type": "phi3", "hidden_size": 3072}')
    ref = resolve_base(MINI)
    assert ref.folder == snapshot
    assert read_base_config(ref)["hidden_size"] == 3072
    assert [k.name for k in known_bases() if k.source == "hub" and find_folder(k)] == [
        "phi3-mini-4k"
    ]


def test_each_base_has_its_suite(toy_ref: BaseRef) -> None:
    general = bundled("general/suite.jsonl")
    assert bundled_suite(resolve_base("tiny")) == bundled("tiny/suite.jsonl")
    assert bundled_suite(resolve_base(MINI)) == general
    assert bundled_suite(toy_ref) == general


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"model_type": "gpt2"}', r"type is 'gpt2'; pass the folder of a Phi-3"),
        ('{"hidden_size": 4}', r"type is None; pass the folder"),
        ('{"model_type": ["phi3"]}', r"is not a Phi-3: .*; pass"),
        ('{"model_type": "\\u202e\\u0007phi3"}', r"is not a Phi-3: .*; pass"),
        ('["phi3"]', r"is not a JSON object; pass"),
        ("{", r"cannot read .*; pass the folder of a Phi-3 model$"),
        ("[" * 100_000, r"cannot read .*; pass the folder of a Phi-3 model$"),
        ("\udce9", r"cannot read .*; pass the folder of a Phi-3 model$"),
        (" " * (1 << 20) + "{}", r"larger than 1 MiB; pass"),
    ],
    ids=["llama", "no type", "list", "hostile", "array", "truncated", "deep", "latin-1", "huge"],
)
def test_a_config_that_is_not_a_phi3s_is_refused(toy_ref: BaseRef, text: str, what: str) -> None:
    assert toy_ref.folder is not None
    (toy_ref.folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BaseModelError, match=what) as error:
        read_base_config(toy_ref)
    assert str(error.value).isprintable()


def test_a_phi3_config_is_returned_whole(
    toy_ref: BaseRef, edit_config: Callable[..., None]
) -> None:
    assert toy_ref.folder is not None
    edit_config(toy_ref.folder / "config.json", auto_map={"AutoConfig": "evil.Config"}, mine=[1])
    config = read_base_config(toy_ref)
    assert (config["hidden_size"], config["mine"]) == (32, [1])
    assert "evil" not in sys.modules


def test_a_download_is_found_without_the_hubs_client(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = next(known for known in known_bases() if known.id == MINI)
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache))
    repository = hub_cache / "models--microsoft--Phi-3-mini-4k-instruct"
    snapshot = repository / "snapshots" / "abc123"
    for prepare in (
        lambda: (repository / "refs").mkdir(parents=True),
        lambda: (repository / "refs" / "main").write_text("abc123"),
        lambda: snapshot.mkdir(parents=True),
        lambda: (snapshot / "config.json").write_text("{}"),
    ):
        prepare()
        with monkeypatch.context() as light:
            theirs = find_folder(known)
            light.setattr(registry, "is_installed", lambda module: False)
            assert find_folder(known) == theirs
    assert find_folder(known) == snapshot
