"""Two folders' tokenizers beside each other: which texts they cut otherwise, or join otherwise.

What a way makes of the folder must be what some way makes of the base.
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
    Way,
    outside,
    same_files,
    spellings,
    ways,
)

MAX_SHOWN = 3
"""Differences that are told of each way and kind."""


def corpus(fixed: list[str], sides: Sequence[Way], news: Iterable[str] = ()) -> list[str]:
    """Return texts that take every branch of the tokenizers that they are made from.

    Args:
        fixed: Texts in many scripts, with blanks, numbers, marks and the like.
        sides: The tokenizers.
        news: Added tokens that the base does not have; no text is made of them.
    """
    texts = list(fixed)
    skipped = set(news)
    for token in sorted({t for side in sides for t in side.added} - skipped):
        texts += around(token)
        texts += [token.upper(), token.lower(), token[:-1], token[1:], f"{token}{token} {token}"]
    for literal in sorted({t for side in sides for t in literals(outside(side))} - skipped):
        texts += around(literal)
    return list(dict.fromkeys(texts))


def around(text: str) -> list[str]:
    """Return a text in the places that decide how it is found."""
    shapes = (
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
    return [shape.format(text) for shape in shapes]


def literals(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts that the steps before and behind the model look for, or put in."""
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    waiting = [content.get(name) for name in names]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += [v for key, v in part.items() if key not in ("type", "precompiled_charsmap")]
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str) and 0 < len(part) <= 200:
            yield part
            yield from re.findall(r"\w+", part)  # what a pattern names


def entries(side: Way) -> Iterator[str]:
    """Yield every entry of a vocabulary, alone and among others: so each merge is made, too."""
    words = [side.join([number]) for number in sorted(side.words.values())]
    words = [word for word in words if word and "\ufffd" not in word]
    yield from words
    for at in range(0, len(words), 32):
        yield " ".join(words[at : at + 32])
        yield "".join(words[at : at + 32])


def compare(ours: Way, theirs: Way, texts: list[str], *, plain: bool) -> list[dict[str, Any]]:
    """Return how two tokenizers differ, an example or some for each kind; nothing where nowhere.

    Args:
        ours: The folder's.
        theirs: The base's.
        texts: What both cut.
        plain: Whether one of them knows no added tokens, so that only plain text is compared.
    """
    found: dict[str, list[dict[str, Any]]] = {}

    def add(kind: str, text: str, mine: Any, its: Any) -> None:
        found.setdefault(kind, []).append({"text": text, "ours": str(mine), "theirs": str(its)})

    tokens = [*ours.added, *theirs.added]
    for text, mine, its in zip(texts, ours.ids(texts), theirs.ids(texts), strict=True):
        if plain and (text != text.strip() or any(token in text for token in tokens)):
            continue
        if mine != its:
            add("ids", text, mine, its)
        else:
            first, second = ours.join(its), theirs.join(its)
            if first != second:
                blank = "".join(first.split()) == "".join(second.split())
                add("blanks" if blank else "text", text, first, second)
    if not plain and "ids" not in found:
        starts: tuple[list[int | None], ...] = (
            [],
            [theirs.start],
            [ours.start] if theirs.start is None else [],
        )
        for text in texts[:8]:
            mine, its = ours.cut([text], True)[0], theirs.cut([text], True)[0]
            inner = theirs.cut([text], False)[0]
            if mine != its and mine not in [[*start, *inner] for start in starts]:
                add("frame", text, mine, its)
    return [
        {"kind": kind, "count": len(cases), **case}
        for kind, cases in found.items()
        for case in sorted(cases, key=lambda case: len(case["text"]))[:MAX_SHOWN]
    ]


_NAMES = (
    "pad|padding|unk|s|bos|eos|mask|cls|sep|inst|sys|think|thinking|tool|tools|tool_calls?"
    "|tool_responses?|tool_results?|function_call|image|audio|video|image_soft_token"
    "|start_of_[a-z]+|end_of_[a-z]+|im_start|im_end|fim_[a-z]+|extra_id_[0-9]+|unused[0-9]+"
    "|reserved_[a-z_]*[0-9]+|0x[0-9a-f]{2}|pre|mid|suf|eot|eod|placeholder[0-9]*"
)
_MARKER = re.compile(
    rf"▁?(<[|\uff5c][^\s<>]*[|\uff5c]>|<<?/?({_NAMES})>?>|\[/?({_NAMES}|(tool|available)_[a-z]+)\])",
    re.IGNORECASE,
)


def is_marker(token: str) -> bool:
    """Whether a token is one that chats are marked with, and that stands in no ordinary text.

    Any other tag or word in brackets may stand in code, in a web page or in a log.
    """
    return bool(_MARKER.fullmatch(token))


def answer(job: Mapping[str, Any], base: dict[str, Way]) -> dict[str, Any]:
    """Make the folder's tokenizers, and compare each with the base's.

    Args:
        job: ``texts``, and paths by name: ``folder``, ``base``, and ``bare``, which has the base's
            files without its config.json.
        base: The base's tokenizers.

    Returns:
        ``failed``: messages by way. ``words``: new tokens that are no markers, with their ids.
        ``like``: by way, the version's spelling of the base that it is like. ``differences``: each
        with ``way``, ``kind``, ``text``, ``ours``, ``theirs`` and ``count``.
    """
    failed: dict[str, str] = {}
    like: dict[str, str] = {}
    own = ways(job["folder"], failed, same_files(job))
    if TRANSFORMERS in failed and TRANSFORMERS not in ways(job["bare"], {}, FILES):
        like[TRANSFORMERS] = "transformers makes none without config.json"
        del failed[TRANSFORMERS]
    elif TRANSFORMERS in failed and SENTENCEPIECE not in failed and has_pieces_alone(job["folder"]):
        like[TRANSFORMERS] = f"transformers makes none of {SENTENCEPIECE} alone here"
        del failed[TRANSFORMERS]
    known = {word for way in base.values() for word in way.words}
    news = {t: n for way in own.values() for t, n in way.added.items() if t not in known}
    markers = [token for token in news if is_marker(token)]
    forms = {"no config.json beside": lambda: ways(job["bare"], {}, FILES).get(TRANSFORMERS)}
    forms |= spellings(base)

    def usual(texts: Iterable[str]) -> list[str]:
        return [text for text in texts if not any(marker in text for marker in markers)]

    texts = usual(corpus(job["texts"], [*base.values(), *own.values()], news))
    differences = []
    for name, way in own.items():
        form, theirs, found = closest(name, way, base, forms, texts)
        if form:
            like[name] = form
        # Where vocabulary and merges are the base's, each entry is cut as the base cuts it.
        if not same_model(way, theirs) and not is_serious(found):
            every = usual(dict.fromkeys([*entries(theirs), *entries(way)]))
            found = compare(way, theirs, every, plain=name == SENTENCEPIECE) or found
        differences += [{"way": name, **case} for case in found]
    words = {token: number for token, number in news.items() if token not in markers}
    return {"failed": failed, "words": words, "like": like, "differences": differences}


def has_pieces_alone(folder: str) -> bool:
    """Whether tokenizer.model is all that a tokenizer can be made of, as older versions saved it.

    transformers reads it with the help of protobuf, which need not be installed.
    """
    others = (TOKENIZERS, *OTHER_VOCABULARIES)
    there = [name for name in (SENTENCEPIECE, *others) if Path(folder, name).is_file()]
    return there == [SENTENCEPIECE]


def closest(
    name: str,
    way: Way,
    base: Mapping[str, Way],
    forms: Mapping[str, Callable[[], Way | None]],
    texts: list[str],
) -> tuple[str, Way, list[dict[str, Any]]]:
    """Return what the folder's tokenizer is like, and how it differs: form, tokenizer, differences.

    The form is a version's spelling of the base, or empty for the base's own. Where it is like none
    of them, the differences are those from the base's that is made the same way.
    """
    first = None
    for key, theirs in candidates(name, base):
        found = compare(way, theirs, texts, plain=SENTENCEPIECE in (name, key) and name != key)
        first = first or (theirs, found)
        if not is_serious(found):
            return "", theirs, found
    for form, make in forms.items():
        spelled = make()
        if spelled and not is_serious(compare(way, spelled, texts, plain=name == SENTENCEPIECE)):
            return form, spelled, []
    return ("", *first) if first else ("", way, [])


def candidates(name: str, base: Mapping[str, Way]) -> list[tuple[str, Way]]:
    """Return the base's tokenizers that one may be like: made the same way first.

    What transformers makes of the folder must be what it makes of the base, where it can; a file
    by itself may say what transformers makes of the base's, as it writes that when it saves.
    """
    first = [(name, base[name])] if name in base else []
    if first and name in (TRANSFORMERS, SENTENCEPIECE):
        return first
    return [*first, *((key, way) for key, way in base.items() if key != name)]


def same_model(ours: Way, theirs: Way) -> bool:
    """Whether two tokenizers have the same vocabulary, merges and ways with them.

    Which token stands for what is unknown shows on the few texts that hold such a thing.
    """
    if ours.model == theirs.model:
        return True
    if not ours.model or not theirs.model:
        return False
    mine, its = (json.loads("{" + way.model.rstrip()[:-1]) for way in (ours, theirs))
    names = [name for name in {**mine, **its} if name != "unk_token"]
    return all((mine.get(name) or None) == (its.get(name) or None) for name in names)


def is_serious(found: Iterable[Mapping[str, Any]]) -> bool:
    """Whether more than blanks in an answer's text differs."""
    return any(case["kind"] != "blanks" for case in found)
