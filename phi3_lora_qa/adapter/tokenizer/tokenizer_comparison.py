"""Compares how two folders' tokenizers encode and decode texts.

The tokenizer that a loader makes of the folder must behave like one that some loader makes of the
base. This runs in the bounded child process; see `tokenizer_behaviour_child`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.folder import OTHER_VOCABULARIES
from phi3_lora_qa.adapter.tokenizer.tokenizer_loaders import (
    FILES,
    SENTENCEPIECE,
    TOKENIZERS,
    TRANSFORMERS,
    LoadedTokenizer,
    blank_variants,
    load_all,
    same_files,
    steps_of,
)

MAX_SHOWN = 3
"""Differences that are reported per loader and kind."""


def build_probe_texts(
    fixed: list[str], tokenizers: Sequence[LoadedTokenizer], new_tokens: Iterable[str] = ()
) -> list[str]:
    """Return texts that exercise every step of the tokenizers.

    Args:
        fixed: Texts in many scripts, with blanks, numbers, punctuation and the like.
        tokenizers: The tokenizers, whose tokens and steps give further texts.
        new_tokens: Added tokens that the base does not have; no texts are made from them.
    """
    texts = list(fixed)
    skipped = set(new_tokens)
    for token in sorted({t for one in tokenizers for t in one.added} - skipped):
        texts += in_contexts(token)
        texts += [token.upper(), token.lower(), token[:-1], token[1:], f"{token}{token} {token}"]
    for literal in sorted(
        {t for one in tokenizers for t in step_literals(steps_of(one))} - skipped
    ):
        texts += in_contexts(literal)
    return list(dict.fromkeys(texts))


def in_contexts(text: str) -> list[str]:
    """Return a text in the contexts that decide whether a tokenizer finds it."""
    contexts = (
        "{}",
        " {}",
        "{} ",
        "a{}b",
        "a {} b",
        "a  {}  b",
        "\n{}\n",
        "1{}2",
        ".{}.",
        "{}\u00e9",
    )
    return [context.format(text) for context in contexts]


def step_literals(steps: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts that the steps before and after the model search for, or insert."""
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    stack = [steps.get(name) for name in names]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            stack += [v for key, v in part.items() if key not in ("type", "precompiled_charsmap")]
        elif isinstance(part, list):
            stack += part
        elif isinstance(part, str) and 0 < len(part) <= 200:
            yield part
            yield from re.findall(r"\w+", part)  # the words in a pattern


def vocabulary_texts(tokenizer: LoadedTokenizer) -> Iterator[str]:
    """Yield every vocabulary entry, alone and among others: this also exercises each merge."""
    words = [tokenizer.decode([token_id]) for token_id in sorted(tokenizer.vocabulary.values())]
    words = [word for word in words if word and "\ufffd" not in word]
    yield from words
    for start in range(0, len(words), 32):
        yield " ".join(words[start : start + 32])
        yield "".join(words[start : start + 32])


def compare(
    ours: LoadedTokenizer, theirs: LoadedTokenizer, texts: list[str], *, only_plain: bool
) -> list[dict[str, Any]]:
    """Return the differences of two tokenizers: some examples of each kind.

    Args:
        ours: The folder's tokenizer.
        theirs: The base's tokenizer.
        texts: The texts to encode.
        only_plain: Whether to compare plain text only, because one has no added tokens.
    """
    found: dict[str, list[dict[str, Any]]] = {}

    def add(kind: str, text: str, mine: Any, its: Any) -> None:
        found.setdefault(kind, []).append({"text": text, "ours": str(mine), "theirs": str(its)})

    tokens = [*ours.added, *theirs.added]
    for text, mine, its in zip(texts, ours.ids(texts), theirs.ids(texts), strict=True):
        if only_plain and (text != text.strip() or any(token in text for token in tokens)):
            continue
        if mine != its:
            add("ids", text, mine, its)
        else:
            first, second = ours.decode(its), theirs.decode(its)
            if first != second:
                is_blank = "".join(first.split()) == "".join(second.split())
                add("whitespace" if is_blank else "text", text, first, second)
    if not only_plain and "ids" not in found:
        starts: tuple[list[int | None], ...] = (
            [],
            [theirs.bos_id],
            [ours.bos_id] if theirs.bos_id is None else [],
        )
        for text in texts[:8]:
            mine, its = ours.encode([text], True)[0], theirs.encode([text], True)[0]
            inner = theirs.encode([text], False)[0]
            if mine != its and mine not in [[*start, *inner] for start in starts]:
                add("special tokens", text, mine, its)
    return [
        {"kind": kind, "count": len(cases), **case}
        for kind, cases in found.items()
        for case in sorted(cases, key=lambda case: len(case["text"]))[:MAX_SHOWN]
    ]


_MARKER_NAMES = (
    "pad|padding|unk|s|bos|eos|mask|cls|sep|inst|sys|think|thinking|tool|tools|tool_calls?"
    "|tool_responses?|tool_results?|function_call|image|audio|video|image_soft_token"
    "|start_of_[a-z]+|end_of_[a-z]+|im_start|im_end|fim_[a-z]+|extra_id_[0-9]+|unused[0-9]+"
    "|reserved_[a-z_]*[0-9]+|0x[0-9a-f]{2}|pre|mid|suf|eot|eod|placeholder[0-9]*"
)
_MARKER = re.compile(
    rf"▁?(<[|\uff5c][^\s<>]*[|\uff5c]>|<<?/?({_MARKER_NAMES})>?>"
    rf"|\[/?({_MARKER_NAMES}|(tool|available)_[a-z]+)\])",
    re.IGNORECASE,
)


def is_marker(token: str) -> bool:
    """Whether a token is a chat marker, which does not occur in ordinary text.

    Any other tag, or word in brackets, may occur in code, in a web page or in a log.
    """
    return bool(_MARKER.fullmatch(token))


def compare_folders(job: Mapping[str, Any], base: dict[str, LoadedTokenizer]) -> dict[str, Any]:
    """Load the folder's tokenizers, and compare each with the base's.

    Args:
        job: ``texts``, ``leave_out`` (tokens in texts that are not compared), and paths by name:
            ``folder``, ``base``, and ``bare``, which has the base's files without its config.json.
        base: The base's tokenizers.

    Returns:
        ``load_errors``: messages by loader. ``new_words``: new tokens that are not markers, with
        their ids. ``matched_variants``: by loader, the variant of the base that it matches.
        ``differences``: each with ``loader``, ``kind``, ``text``, ``ours``, ``theirs`` and
        ``count``.
    """
    errors: dict[str, str] = {}
    matched: dict[str, str] = {}
    own = load_all(job["folder"], errors, same_files(job))
    if TRANSFORMERS in errors and TRANSFORMERS not in load_all(job["bare"], {}, FILES):
        matched[TRANSFORMERS] = "transformers cannot load it without config.json"
        del errors[TRANSFORMERS]
    elif TRANSFORMERS in errors and SENTENCEPIECE not in errors and has_pieces_alone(job["folder"]):
        matched[TRANSFORMERS] = f"transformers cannot load {SENTENCEPIECE} alone here"
        del errors[TRANSFORMERS]
    known = {word for one in base.values() for word in one.vocabulary}
    new = {t: n for one in own.values() for t, n in one.added.items() if t not in known}
    markers = [token for token in new if is_marker(token)]
    variants = {"no config.json": lambda: load_all(job["bare"], {}, FILES).get(TRANSFORMERS)}
    variants |= blank_variants(base)

    left_out = [*markers, *job["leave_out"]]

    def without_markers(texts: Iterable[str]) -> list[str]:
        return [text for text in texts if not any(marker in text for marker in left_out)]

    texts = without_markers(build_probe_texts(job["texts"], [*base.values(), *own.values()], new))
    differences = []
    for name, ours in own.items():
        variant, theirs, found = closest_match(name, ours, base, variants, texts)
        if variant:
            matched[name] = variant
        # With the base's vocabulary and merges, each entry is encoded as the base encodes it.
        if not has_same_model(ours, theirs) and not is_serious(found):
            every = without_markers(
                dict.fromkeys([*vocabulary_texts(theirs), *vocabulary_texts(ours)])
            )
            found = compare(ours, theirs, every, only_plain=name == SENTENCEPIECE) or found
        differences += [{"loader": name, **case} for case in found]
    return {
        "load_errors": errors,
        "new_words": {token: number for token, number in new.items() if token not in markers},
        "matched_variants": matched,
        "differences": differences,
    }


def has_pieces_alone(folder: str) -> bool:
    """Whether tokenizer.model is the only tokenizer file, as older versions saved it.

    transformers reads it with protobuf, which may not be installed.
    """
    others = (TOKENIZERS, *OTHER_VOCABULARIES)
    present = [name for name in (SENTENCEPIECE, *others) if Path(folder, name).is_file()]
    return present == [SENTENCEPIECE]


def closest_match(
    name: str,
    ours: LoadedTokenizer,
    base: Mapping[str, LoadedTokenizer],
    variants: Mapping[str, Callable[[], LoadedTokenizer | None]],
    texts: list[str],
) -> tuple[str, LoadedTokenizer, list[dict[str, Any]]]:
    """Return the base's tokenizer that ours matches: (variant, tokenizer, differences).

    The variant is empty for a tokenizer of the base itself. If nothing matches, the differences are
    those from the base's tokenizer of the same loader.
    """
    first = None
    for key, theirs in candidates(name, base):
        plain = SENTENCEPIECE in (name, key) and name != key
        found = compare(ours, theirs, texts, only_plain=plain)
        first = first or (theirs, found)
        if not is_serious(found):
            return "", theirs, found
    for variant, load in variants.items():
        other = load()
        if other and not is_serious(compare(ours, other, texts, only_plain=name == SENTENCEPIECE)):
            return variant, other, []
    return ("", *first) if first else ("", ours, [])


def candidates(name: str, base: Mapping[str, LoadedTokenizer]) -> list[tuple[str, LoadedTokenizer]]:
    """Return the base's tokenizers that ours may match: first the one of the same loader.

    What transformers loads from the folder must match what it loads from the base, if it can. A
    single file may match what transformers loads from the base, because transformers saves that.
    """
    first = [(name, base[name])] if name in base else []
    if first and name in (TRANSFORMERS, SENTENCEPIECE):
        return first
    return [*first, *((key, one) for key, one in base.items() if key != name)]


def has_same_model(ours: LoadedTokenizer, theirs: LoadedTokenizer) -> bool:
    """Whether two tokenizers have the same vocabulary, merges and model options.

    A different unknown token shows on the few texts that contain something unknown.
    """
    if ours.model == theirs.model:
        return True
    if not ours.model or not theirs.model:
        return False
    mine, its = (json.loads("{" + one.model.rstrip()[:-1]) for one in (ours, theirs))
    names = [name for name in {**mine, **its} if name != "unk_token"]
    return all((mine.get(name) or None) == (its.get(name) or None) for name in names)


def is_serious(found: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the differences affect more than blanks in decoded text."""
    return any(case["kind"] != "whitespace" for case in found)
