"""Comparison of loaded tokenizers: poisoned ones are found, harmless ones pass."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.tokenizer.probe_texts import TEXTS
from phi3_lora_qa.adapter.tokenizer.tokenizer_comparison import (
    compare_folders,
    has_pieces_alone,
    is_marker,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_loaders import LoadedTokenizer, load_all
from phi3_lora_qa.models.quiet import quiet
from tests.adapter.poisoned_tokenizers import (
    HARMLESS,
    POISON,
    TINY,
    copied,
    file,
    old_base,
)

# ruff: noqa: RUF001 - tokens of other models contain such characters


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"new": TINY, "old": old_base(tmp_path_factory.mktemp("bases") / "old")}


@dataclass(frozen=True)
class Base:
    """A base with its tokenizers, which the child loads again for each folder."""

    path: Path
    bare: Path
    tokenizers: dict[str, LoadedTokenizer]


@pytest.fixture(scope="module")
def loaded(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    found = {}
    for layout, path in bases.items():
        bare = copied(path, tmp_path_factory.mktemp("bare") / layout)
        with quiet():
            found[layout] = Base(path, bare, load_all(str(path), {}))
    return found


def compared_with(folder: Path, base: Base) -> dict[str, Any]:
    places = {"folder": str(folder), "base": str(base.path), "bare": str(base.bare)}
    with quiet():
        return compare_folders({**places, "texts": list(TEXTS), "leave_out": []}, base.tokenizers)


def is_refused(found: dict[str, Any]) -> bool:
    serious = [d for d in found["differences"] if d["kind"] != "whitespace"]
    return bool(serious or found["load_errors"] or found["new_words"])


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("poison", POISON)
def test_a_tokenizer_that_behaves_differently_is_found(
    poison: str,
    layout: str,
    loaded: dict[str, Base],
    bases: Any,
    tmp_path: Path,
) -> None:
    folder = copied(bases[layout], tmp_path / "folder")
    POISON[poison](folder)
    assert is_refused(compared_with(folder, loaded[layout]))


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("harmless", HARMLESS)
def test_a_tokenizer_that_behaves_the_same_passes(
    harmless: str,
    layout: str,
    loaded: dict[str, Base],
    bases: Any,
    tmp_path: Path,
) -> None:
    folder = copied(bases[layout], tmp_path / "folder")
    HARMLESS[harmless](folder)
    found = compared_with(folder, loaded[layout])
    assert not is_refused(found), found


def test_variants_of_the_bases_blanks_are_reported(
    loaded: dict[str, Base], bases: Any, tmp_path: Path
) -> None:
    """Without config.json, transformers 5 loads a LlamaTokenizer from Phi-3's files."""
    folder = copied(bases["old"], tmp_path / "folder")
    found = compared_with(folder, loaded["old"])
    assert found["matched_variants"] == {"transformers": "no config.json"}
    part = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    file(normalizer=None, pre_tokenizer=part)(folder)
    found = compared_with(folder, loaded["old"])
    assert found["matched_variants"].keys() == {"transformers", "tokenizer.json"}
    assert not is_refused(found)


@pytest.mark.parametrize(
    ("token", "marker"),
    [
        ("<|tool|>", True),
        ("<think>", True),
        ("</tool_call>", True),
        ("[PAD]", True),
        ("[/INST]", True),
        ("<<SYS>>", True),
        ("<｜begin▁of▁sentence｜>", True),
        ("▁<PRE>", True),
        ("<0x0A>", True),
        ("not", False),
        (" the", False),
        ("<b>", False),
        ("</TABLE>", False),
        ("<int>", False),
        ("<stdio.h>", False),
        ("<section>", False),
        ("[ERROR]", False),
        ("<||>", True),
        ("[AVAILABLE_TOOLS]", True),
        ("<>", False),
        ("[0]", False),
        ("[a]", False),
        ("(x)", False),
        ("< a >", False),
        ("a<|x|>", False),
        ("", False),
    ],
)
def test_a_marker_does_not_occur_in_ordinary_text(token: str, marker: bool) -> None:
    assert is_marker(token) is marker


def test_a_load_error_of_transformers_is_accepted_for_pieces_alone(tmp_path: Path) -> None:
    """transformers 4 saved slow tokenizers like this, and reads them with protobuf."""
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    assert has_pieces_alone(str(tmp_path))
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "tekken.json"):
        (tmp_path / name).write_bytes(b"x")
        assert not has_pieces_alone(str(tmp_path))
        (tmp_path / name).unlink()
    (tmp_path / "tokenizer.model").unlink()
    assert not has_pieces_alone(str(tmp_path))
