"""Changes of a tokenizer that affect how text is encoded or decoded, and harmless changes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phi3_lora_qa.models.registry import bundled

TINY = bundled("tiny") / "base"

Change = Callable[[Path], object]


def old_base(folder: Path) -> Path:
    """Write the tiny base in the layout of Phi-3's repository: by transformers 4.40."""
    shutil.copytree(TINY, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    del content["model"]["ignore_merges"]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, replace]
    content |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    added = content["added_tokens"]
    settings |= {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "chat_template": (folder / "chat_template.jinja").read_text(),
        "added_tokens_decoder": {
            str(entry["id"]): {name: value for name, value in entry.items() if name != "id"}
            for entry in added
        },
    }
    special = {n: v for n, v in settings.items() if n.endswith("_token") and type(v) is str}
    (folder / "chat_template.jinja").unlink()
    for name, value in {
        "tokenizer.json": content,
        "tokenizer_config.json": settings,
        "special_tokens_map.json": special,
        "added_tokens.json": {entry["content"]: entry["id"] for entry in added},
    }.items():
        (folder / name).write_text(json.dumps(value))
    return folder


WITHOUT_MODEL = ("config.json", "generation_config.json", "model.safetensors")


def copied(base: Path, folder: Path) -> Path:
    """Copy the tokenizer files of a base."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns(*WITHOUT_MODEL))
    return folder


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
    """Add a token, or change the flags of an existing token."""

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
    """Insert a step at the start of a part of tokenizer.json."""
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
    "the base's config in the folder": lambda folder: shutil.copy(TINY / "config.json", folder),
}  # fmt: skip
