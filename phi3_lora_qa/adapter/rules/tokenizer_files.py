"""Family tokenizer: the tokenizer in the folder loads, names no code, and agrees with itself."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from phi3_lora_qa.adapter.chat_template.template_files import TEMPLATE, read_templates
from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.folder import OTHER_VOCABULARIES
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.tokenizer.sentencepiece_model import (
    MAX_PIECES_BYTES,
    PIECES,
    parse_pieces,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import (
    ADDED_TOKENS,
    SETTINGS,
    SPECIAL_MAP,
    is_tiktoken,
    read_object,
    read_small,
    read_tokenizer,
    special_token,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_json import VOCABULARY
from phi3_lora_qa.errors import AdapterError

_TURN_END = "<|end|>"
MIN_LENGTH = 16
"""Phi-3's template alone takes six tokens for a question and its answer."""

_FILE_FIELDS = (
    "tokenizer_file", "vocab_file", "merges_file", "spm_file", "gguf_file", "tokenizer_object",
)  # fmt: skip
"""Fields of tokenizer_config.json that some versions of transformers take a file's path from."""


@rule(
    "tokenizer-unreadable",
    severity=Severity.ERROR,
    title="The tokenizer's files can be read",
    why="Whoever loads the tokenizer from this folder fails, or gets another one.",
    fix="save the tokenizer again with save_pretrained",
    needs=["tokenizer"],
)
def unreadable(context: LintContext) -> Iterator[Violation]:
    """Find files that are no strict JSON, no UTF-8, or not laid out as what they are called."""
    told: set[str] = set()
    for name, read in _READERS.items():
        try:
            read(context)
        except AdapterError as error:
            what, _, fix = str(error).rpartition("; ")
            if what not in told:
                told.add(what)
                yield Violation(name, what, fix)


@rule(
    "tokenizer-incomplete",
    severity=Severity.ERROR,
    title="Beside a tokenizer's settings lies its vocabulary",
    why="transformers cannot make a tokenizer of settings alone: whoever loads it from this folder "
    "gets an error.",
    fix="save the tokenizer again with save_pretrained, or remove its other files",
    needs=["tokenizer"],
)
def incomplete(context: LintContext) -> Iterator[Violation]:
    """Find tokenizer_config.json without any file that could hold a vocabulary."""
    names = context.folder.entries
    vocabularies = (VOCABULARY, PIECES, *OTHER_VOCABULARIES)
    if SETTINGS in names and not any(name in names for name in vocabularies):
        yield Violation(SETTINGS, f"the folder has {SETTINGS}, but no {VOCABULARY}")


@rule(
    "tokenizer-code",
    severity=Severity.ERROR,
    title="The tokenizer's settings name no code and no other files",
    why="A loader with trust_remote_code runs what auto_map names; and what another file holds is "
    "not what was checked.",
    fix="save the base's own tokenizer beside the adapter",
    needs=["tokenizer"],
)
def code(context: LintContext) -> Iterator[Violation]:
    """Find auto_map, unless the base has the same, and paths."""
    settings = _settings(context)
    based = read_object(context.base, SETTINGS) if context.has("base's tokenizer") else {}
    auto_map = settings.get("auto_map")
    if auto_map and auto_map != based.get("auto_map"):
        yield Violation(SETTINGS, "auto_map names code to make the tokenizer with")
    others = [name for name in _FILE_FIELDS if settings.get(name)]
    if settings.get("fast_tokenizer_files") not in (None, [], [VOCABULARY]):
        others.append("fast_tokenizer_files")
    for name in others:
        yield Violation(SETTINGS, f"{name} names another file in place of {VOCABULARY}")


@rule(
    "tokenizer-contradiction",
    severity=Severity.ERROR,
    title="The tokenizer's files agree on every token's number",
    why="Programs read different ones of these files: the same text becomes other tokens for each.",
    fix="save the base's own tokenizer beside the adapter",
    needs=["tokenizer"],
)
def contradiction(context: LintContext) -> Iterator[Violation]:
    """Find tokens for which two files have different numbers."""
    own = context.tokenizer
    if own is None:
        return  # tokenizer-unreadable says it, or there is no vocabulary
    for token in own.file.id_mismatches if own.file else ():
        number = own.tokens[token]
        yield Violation(
            VOCABULARY, f"added_tokens lists {token!r} under another number than {number}"
        )
    for name, token, number in own.declared_ids:
        known = own.tokens.get(token)
        if known is None:
            yield Violation(name, f"the token {token!r} is in no other file")
        elif known != number:
            yield Violation(
                name, f"the token {token!r} has the number {number}, elsewhere it is {known}"
            )
    if own.file and context.folder.file(PIECES):
        yield from _other_pieces(context, own.tokens)


def _other_pieces(context: LintContext, tokens: Mapping[str, int]) -> Iterator[Violation]:
    try:
        data = _own_pieces(context)
        pieces = parse_pieces(data) if data else ()
    except AdapterError:
        return  # tokenizer-unreadable says it
    moved = [piece[0] for n, piece in enumerate(pieces) if tokens.get(piece[0], n) != n]
    if moved:
        text = f"{len(moved)} pieces have other numbers than in {VOCABULARY}, such as {moved[0]!r}"
        yield Violation(PIECES, text)


@rule(
    "tokenizer-stop-token",
    severity=Severity.ERROR,
    title="There is a stop token, and it is in the vocabulary",
    why="Without it generation never ends by itself, and the template's end of turn is cut into "
    "pieces that mean nothing.",
    fix="save the base's own tokenizer beside the adapter",
    needs=["tokenizer"],
)
def stop_token(context: LintContext) -> Iterator[Violation]:
    """Find an eos_token that no entry of the vocabulary stands for, or none at all.

    What the base has is compared in tokenizer-special-tokens.
    """
    own = context.tokenizer
    stop = own.special["eos_token"] if own else None
    if own and stop is None and not context.has("base's tokenizer"):
        yield Violation(SETTINGS, "eos_token is not set")
    if own and own.file and stop is not None and stop not in own.file.tokens:
        yield Violation(SETTINGS, f"eos_token is {stop!r}, which the vocabulary does not have")


@rule(
    "tokenizer-settings",
    severity=Severity.ERROR,
    title="The tokenizer's settings are ones that transformers takes",
    why="transformers makes no tokenizer of a side that it does not know; and where texts are cut "
    "to a length that no prompt fits in, the model sees a few words of each.",
    fix="save the tokenizer again with save_pretrained",
    needs=["tokenizer"],
)
def settings(context: LintContext) -> Iterator[Violation]:
    """Find sides that are none, and a length that is none or next to nothing."""
    found = _settings(context)
    for name in ("padding_side", "truncation_side"):
        if name in found and found[name] not in ("left", "right"):
            yield Violation(SETTINGS, f"{name} is {found[name]!r}, neither left nor right")
    length = found.get("model_max_length")
    if length is None:
        return
    if type(length) not in (int, float):
        yield Violation(SETTINGS, f"model_max_length is {length!r}, which is no number")
    elif not length >= MIN_LENGTH:
        yield Violation(SETTINGS, f"model_max_length is {length}, which no prompt fits in")


@rule(
    "tokenizer-pad-is-stop",
    severity=Severity.WARNING,
    title="The padding token does not end a turn, unless it does so in the base",
    why="Padding is masked from the loss. If it is the token that ends a turn, the model never "
    "learns to stop, and answers run to the limit.",
    fix="train with the base's own pad token, <|endoftext|>",
    needs=["tokenizer"],
)
def pad_is_stop(context: LintContext) -> Iterator[Violation]:
    """Find a pad token that is the end of a turn; a base that pads with it was trained so."""
    pad = special_token(_settings(context), "pad_token")
    if pad != _TURN_END:
        return
    base = read_object(context.base, SETTINGS) if context.has("base") else {}
    if special_token(base, "pad_token") != pad:
        yield Violation(SETTINGS, f"pad_token is {pad}, which ends every turn of Phi-3's chat")


def _settings(context: LintContext) -> dict[str, Any]:
    try:
        return read_object(context.folder, SETTINGS)
    except AdapterError:
        return {}  # tokenizer-unreadable reports it


def _own_pieces(context: LintContext) -> bytes | None:
    """Return tokenizer.model, where it is SentencePiece's and not the base's own."""
    data = read_small(context.folder, PIECES, MAX_PIECES_BYTES)
    if data is None or is_tiktoken(data):
        return None
    based = context.has("base") and context.base.read_bytes(PIECES, MAX_PIECES_BYTES) == data
    return None if based else data


_READERS: Mapping[str, Callable[[LintContext], object]] = {
    SETTINGS: lambda context: read_object(context.folder, SETTINGS),
    SPECIAL_MAP: lambda context: read_object(context.folder, SPECIAL_MAP),
    ADDED_TOKENS: lambda context: read_object(context.folder, ADDED_TOKENS),
    VOCABULARY: lambda context: context.tokenizer or read_tokenizer(context.folder),
    PIECES: lambda context: (data := _own_pieces(context)) and parse_pieces(data),
    TEMPLATE: lambda context: context.templates or read_templates(context.folder),
}
