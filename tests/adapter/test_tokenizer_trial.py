"""What a tokenizer does, held against the base's: in this process, and in the bounded child."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter import tokenizer_child, tokenizer_trial
from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.adapter.child import Limits
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import Severity, lint
from phi3_lora_qa.adapter.tokenizer_compare import answer, is_marker
from phi3_lora_qa.adapter.tokenizer_texts import TEXTS
from phi3_lora_qa.adapter.tokenizer_trial import try_tokenizer
from phi3_lora_qa.adapter.tokenizer_ways import Way, ways
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import bundled
from tests.adapter.adapters import plain
from tests.adapter.test_tokenizer_transformers import old_base

# ruff: noqa: RUF001 - tokens of other models look like that

TINY = bundled("tiny") / "base"
OTHERS = ("config.json", "generation_config.json", "model.safetensors")

Change = Callable[[Path], object]


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        change(content)
        path.write_text(json.dumps(content))

    return apply


def file(**parts: Any) -> Change:
    return edit("tokenizer.json", lambda content: content.update(parts))


def model(**parts: Any) -> Change:
    return edit("tokenizer.json", lambda content: content["model"].update(parts))


def setting(**values: Any) -> Change:
    return edit("tokenizer_config.json", lambda content: content.update(values))


def config(**values: Any) -> Change:
    return edit("config.json", lambda content: content.update(values))


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def token(content: str, **flags: bool) -> Change:
    """Add a token, or give one that is there other flags."""

    def change(raw: dict[str, Any]) -> None:
        known = {entry["content"]: entry for entry in raw["added_tokens"]}
        names = ("single_word", "lstrip", "rstrip", "normalized", "special")
        number = 1 + max(entry["id"] for entry in raw["added_tokens"])
        if content not in known:
            raw["added_tokens"].append(
                {"id": number, "content": content, **dict.fromkeys(names, False)} | flags
            )
        else:
            known[content] |= flags

    return edit("tokenizer.json", change)


def as_vocab_and_merges(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())["model"]
    pairs = (m if isinstance(m, str) else " ".join(m) for m in content["merges"])
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    (folder / "merges.txt").write_text("\n".join(pairs))
    (folder / "tokenizer.json").unlink()


def swap(content: dict[str, Any]) -> None:
    words = content["model"]["vocab"]
    words["▁the"], words["▁a"] = words["▁a"], words["▁the"]


def replacing(pattern: dict[str, str], by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": by}


def before(content: dict[str, Any], name: str, part: dict[str, Any], kind: str) -> None:
    """Put a step before those that a part of tokenizer.json has."""
    steps = [part, *([content[name]] if content[name] else [])]
    content[name] = {"type": "Sequence", kind: steps}


def normalizer(part: dict[str, Any]) -> Change:
    return edit("tokenizer.json", lambda c: before(c, "normalizer", part, "normalizers"))


def pre_tokenizer(part: dict[str, Any]) -> Change:
    return edit("tokenizer.json", lambda c: before(c, "pre_tokenizer", part, "pretokenizers"))


def decoder(part: dict[str, Any]) -> Change:
    return edit("tokenizer.json", lambda c: before(c, "decoder", part, "decoders"))


def framed(front: list[int], behind: list[int]) -> Change:
    def special(ids: list[int]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": f"x{ids[0]}", "type_id": 0}}] if ids else []

    single = [*special(front), {"Sequence": {"id": "A", "type_id": 0}}, *special(behind)]
    table = {
        f"x{ids[0]}": {"id": f"x{ids[0]}", "ids": ids, "tokens": ["x"] * len(ids)}
        for ids in (front, behind)
        if ids
    }
    part = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": table}
    return file(post_processor=part)


POISON: dict[str, Change] = {
    "a class that cuts at bytes": setting(tokenizer_class="GPT2Tokenizer"),
    "a class of word pieces": setting(tokenizer_class="BertTokenizer"),
    "a class of Unigram": setting(tokenizer_class="T5Tokenizer"),
    "a class by config.json": both(
        setting(tokenizer_class=None), config(model_type="gpt2", tokenizer_class="GPT2Tokenizer")
    ),
    "a vocabulary and merges alone": both(
        as_vocab_and_merges, setting(tokenizer_class="GPT2Tokenizer")
    ),
    "special tokens cut as words": setting(split_special_tokens=True),
    "a word as a special token": setting(extra_special_tokens=["refund"]),
    "a word as bos": setting(bos_token="the"),
    "a word in added_tokens_decoder": edit(
        "tokenizer_config.json",
        lambda c: c.setdefault("added_tokens_decoder", {}).update(
            {"741": {"content": "order", "special": False}}
        ),
    ),
    "a word in tokenizer.json": token("refund"),
    "a phrase": token("must not", special=True),
    "a blank": token(" "),
    "a letter": token("e"),
    "a tag of HTML": token("<table>"),
    "a word of code as padding": both(token("<int>", special=True), setting(pad_token="<int>")),
    "a special token that takes its blanks": token("<|end|>", lstrip=True, rstrip=True),
    "a special token within words": token("<|user|>", single_word=True),
    "lower case": normalizer({"type": "Lowercase"}),
    "compatibility forms": normalizer({"type": "NFKC"}),
    "accents gone": normalizer({"type": "StripAccents"}),
    "a word taken out": normalizer(replacing({"String": "not"}, "")),
    "a rare word put for another": normalizer(replacing({"String": "xylophone"}, "pay")),
    "numbers by a pattern": normalizer(replacing({"Regex": "[0-9]+"}, "7")),
    "something before every text": normalizer({"type": "Prepend", "prepend": "No. "}),
    "ends cut off": normalizer({"type": "Strip", "strip_left": True, "strip_right": True}),
    "blanks never at the start": file(
        normalizer=None,
        pre_tokenizer={
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False,
        },
    ),
    "blanks under another mark": file(
        normalizer=None,
        pre_tokenizer={
            "type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": False,
        },
    ),
    "cut at digits": pre_tokenizer({"type": "Digits", "individual_digits": True}),
    "cut at marks": pre_tokenizer({"type": "Punctuation", "behavior": "Removed"}),
    "cut at a word": pre_tokenizer(
        {"type": "Split", "pattern": {"String": "ing"}, "behavior": "Isolated", "invert": False}
    ),
    "an end behind every text": framed([], [2]),
    "two starts before every text": framed([1, 1], []),
    "another word before every text": framed([301], []),
    "a word gone from answers": decoder(replacing({"String": "not"}, "")),
    "a word put into answers": decoder(replacing({"String": "the"}, "a")),
    "words swapped": edit("tokenizer.json", swap),
    "merges reversed": edit("tokenizer.json", lambda c: c["model"]["merges"].reverse()),
    "a merge gone": edit("tokenizer.json", lambda c: c["model"]["merges"].pop(5)),
    "no merges": model(merges=[]),
    "bytes that are unknown": model(byte_fallback=False, fuse_unk=True),
    "an end of words": model(end_of_word_suffix="</w>"),
    "nothing that can be loaded": file(model={"type": "BPE"}),
    "settings alone": lambda folder: (folder / "tokenizer.json").unlink(),
}  # fmt: skip

HARMLESS: dict[str, Change] = {
    "nothing": lambda folder: None,
    "no class": edit("tokenizer_config.json", lambda c: c.pop("tokenizer_class", None)),
    "no settings": lambda folder: (folder / "tokenizer_config.json").unlink(),
    "padded and cut": file(
        padding={
            "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>",
        },
        truncation={
            "direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0
        },
    ),
    "another side and length": setting(padding_side="right", model_max_length=77),
    "a pad token": setting(pad_token="[PAD]"),
    "markers": both(token("<tool_call>", special=True), token("<|extra_7|>"), token("[INST]")),
    "a marker as padding": both(token("<|pad_0|>", special=True), setting(pad_token="<|pad_0|>")),
    "a start before every text": framed([1], []),
    "a normalizer of nothing more": edit(
        "tokenizer.json",
        lambda c: c.update(
            normalizer={
                "type": "Sequence", "normalizers": [c["normalizer"]] if c["normalizer"] else []
            }
        ),
    ),
    "the base's config beside": lambda folder: shutil.copy(TINY / "config.json", folder),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"new": TINY, "old": old_base(tmp_path_factory.mktemp("bases") / "old")}


@dataclass(frozen=True)
class Base:
    """A base with its tokenizers, which the child makes anew for each folder."""

    path: Path
    bare: Path
    ways: dict[str, Way]


@pytest.fixture(scope="module")
def made(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    found = {}
    for layout, path in bases.items():
        bare = copied(path, tmp_path_factory.mktemp("bare") / layout)
        with quiet():
            found[layout] = Base(path, bare, ways(str(path), {}))
    return found


def copied(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns(*OTHERS))
    return folder


def tried(folder: Path, base: Base) -> dict[str, Any]:
    places = {"folder": str(folder), "base": str(base.path), "bare": str(base.bare)}
    with quiet():
        return answer({**places, "texts": list(TEXTS)}, base.ways)


def is_refused(found: dict[str, Any]) -> bool:
    serious = [d for d in found["differences"] if d["kind"] != "blanks"]
    return bool(serious or found["failed"] or found["words"])


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("poison", POISON)
def test_a_tokenizer_that_does_something_else_is_found(
    poison: str,
    layout: str,
    made: dict[str, Base],
    bases: Any,
    tmp_path: Path,
) -> None:
    folder = copied(bases[layout], tmp_path / "folder")
    POISON[poison](folder)
    assert is_refused(tried(folder, made[layout]))


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("harmless", HARMLESS)
def test_a_tokenizer_that_does_the_same_is_no_fault(
    harmless: str,
    layout: str,
    made: dict[str, Base],
    bases: Any,
    tmp_path: Path,
) -> None:
    folder = copied(bases[layout], tmp_path / "folder")
    HARMLESS[harmless](folder)
    found = tried(folder, made[layout])
    assert not is_refused(found), found


def test_versions_spell_the_bases_blanks_in_ways_that_are_told(
    made: dict[str, Base], bases: Any, tmp_path: Path
) -> None:
    """Without config.json transformers 5 makes a LlamaTokenizer of Phi-3's files."""
    folder = copied(bases["old"], tmp_path / "folder")
    found = tried(folder, made["old"])
    assert found["like"] == {"transformers": "no config.json beside"}
    part = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    file(normalizer=None, pre_tokenizer=part)(folder)
    found = tried(folder, made["old"])
    assert found["like"].keys() == {"transformers", "tokenizer.json"}
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
def test_a_marker_is_what_stands_in_no_text(token: str, marker: bool) -> None:
    assert is_marker(token) is marker


# In the child


def lint_beside(base: Path, folder: Path, change: Change, **settings: Any) -> dict[str, Severity]:
    adapter = plain()
    adapter.config |= settings
    copied(base, folder)
    change(folder)
    report = lint(AdapterFolder.open(adapter.save(folder)), BaseFiles.open(base))
    return {f.rule: f.severity for f in report.findings if f.rule.startswith("tokenizer")}


def test_behaviour_is_an_error(bases: dict[str, Path], tmp_path: Path) -> None:
    """Nothing in the files themselves tells."""
    found = lint_beside(TINY, tmp_path / "a", setting(tokenizer_class="GPT2Tokenizer"))
    assert found == {"tokenizer-behaviour": Severity.ERROR}
    found = lint_beside(bases["old"], tmp_path / "b", lambda folder: None)
    assert found == {"tokenizer-versions": Severity.WARNING}


def test_a_word_is_an_error_unless_it_was_trained(tmp_path: Path) -> None:
    found = lint_beside(TINY, tmp_path / "a", token("refund"))
    assert found["tokenizer-words"] is Severity.ERROR
    found = lint_beside(
        TINY, tmp_path / "b", token("refund"), trainable_token_indices={"embed_tokens": [752]}
    )
    assert "tokenizer-words" not in found
    assert found["tokenizer-words-trained"] is Severity.WARNING


def test_the_bases_own_bytes_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(tokenizer_trial, "run_child", never)
    folder = AdapterFolder.open(plain().save(copied(TINY, tmp_path / "a")))
    assert try_tokenizer(folder, BaseFiles.open(TINY)) is None
    empty = AdapterFolder.open(plain().save(tmp_path / "b"))
    assert try_tokenizer(empty, BaseFiles.open(TINY)) is None
    config(model_type="gpt2")(tmp_path / "a")
    with pytest.raises(AssertionError):
        try_tokenizer(AdapterFolder.open(tmp_path / "a"), BaseFiles.open(TINY))


def test_a_pattern_that_never_ends_is_ended(tmp_path: Path) -> None:
    """Oniguruma goes back and forth in it: about 2 to the number of letters."""
    pattern = {"Regex": "(a|a)+c"}
    folder = copied(TINY, tmp_path / "a")
    normalizer(replacing(pattern, "z"))(folder)
    trial = try_tokenizer(AdapterFolder.open(plain().save(folder)), BaseFiles.open(TINY))
    assert trial
    assert trial.error


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.stdout.write('ready\\n'); x = bytearray(1 << 34)",
        "print('ready\\n{', end='')",
    ],
)
def test_a_child_that_ends_early_is_an_error_of_the_folder(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "child.py"
    program.write_text(code)
    monkeypatch.setattr(tokenizer_child, "__file__", str(program))
    folder = copied(TINY, tmp_path / "a")
    setting(x=1)(folder)
    trial = try_tokenizer(AdapterFolder.open(plain().save(folder)), BaseFiles.open(TINY))
    assert trial
    assert "computing time" in trial.error


def test_a_base_without_a_tokenizer_that_loads_is_the_users_to_fix(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    (base / "tokenizer.json").write_text("{")
    folder = AdapterFolder.open(plain().save(copied(TINY, tmp_path / "a")))
    with pytest.raises(BaseModelError, match="fetch the base again"):
        try_tokenizer(folder, BaseFiles.open(base))


def test_the_child_leaves_nothing_and_opens_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    folder = copied(TINY, tmp_path / "a")
    setting(auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})(folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert try_tokenizer(AdapterFolder.open(plain().save(folder)), BaseFiles.open(TINY))
    assert list(place.iterdir()) == []
    assert not (tmp_path / "ran").exists()


STARTS_NONE = """
import sys

def hook(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system") or (
        event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    ):
        raise PermissionError(event)

sys.addaudithook(hook)
with open({child!r}, encoding="utf-8") as file:
    code = file.read()
exec(compile(code, {child!r}, "exec"), {{"__name__": "__main__", "__file__": {child!r}}})
"""


def test_the_child_starts_no_process_and_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on processes holds for root on no system; so others found out what failed."""
    program = tmp_path / "child.py"
    program.write_text(STARTS_NONE.format(child=tokenizer_child.__file__))
    monkeypatch.setattr(tokenizer_child, "__file__", str(program))
    folder = copied(TINY, tmp_path / "a")
    setting(x=1)(folder)
    trial = try_tokenizer(AdapterFolder.open(plain().save(folder)), BaseFiles.open(TINY))
    assert trial
    assert (trial.error, trial.differences, trial.failed) == ("", (), {})


def test_limits_are_those_that_the_child_names() -> None:
    limits = tokenizer_trial.LIMITS
    assert isinstance(limits, Limits)
    assert limits.cpu_seconds == tokenizer_child.CPU_SECONDS
    assert tokenizer_child.allowance(0) < 5 < tokenizer_child.allowance(1)
