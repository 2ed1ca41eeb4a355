"""Family tokenizer: the tokenizer in the folder loads, runs no code, and is consistent."""

from collections.abc import Callable, Iterator, Mapping

from phi3_lora_qa.adapter.chat_template.template_files import TEMPLATE, read_templates
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation
from phi3_lora_qa.adapter.folder import OTHER_VOCABULARIES
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
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
"""The least useful model_max_length; Phi-3's template alone uses six tokens for a question."""

_LENGTHS = {"truncation": "every text is cut to", "padding": "every text is padded to"}
"""What a program does that applies the settings in tokenizer.json, by their names."""

_FILE_FIELDS = (
    "tokenizer_file", "vocab_file", "merges_file", "spm_file", "gguf_file", "tokenizer_object",
)  # fmt: skip
"""Fields of tokenizer_config.json that some versions of transformers read as a file's path."""


@rule(
    "tokenizer-unreadable",
    severity=Severity.ERROR,
    title="The tokenizer's files can be read",
    why="A program that loads the tokenizer from this folder fails, or gets a different tokenizer.",
    fix="save the tokenizer again with save_pretrained",
    needs=["tokenizer"],
)
def unreadable(context: LintContext) -> Iterator[Violation]:
    """Find files that are not strict JSON, not UTF-8, or not in the format of their name."""
    reported: set[str] = set()
    for name, kind in context.foreign_tokenizer_files.items():
        what = f"{name} is {kind}"
        reported.add(what)
        yield Violation(name, what, kind.fix)
    for name, read in _READERS.items():
        try:
            read(context)
        except AdapterError as error:
            if error.what not in reported:
                reported.add(error.what)
                yield Violation(name, error.what, error.fix)


@rule(
    "tokenizer-incomplete",
    severity=Severity.ERROR,
    title="A tokenizer's settings come with its vocabulary",
    why="transformers cannot build a tokenizer from settings alone, so loading the tokenizer from "
    "this folder fails.",
    fix="save the tokenizer again with save_pretrained, or remove its other files",
    needs=["tokenizer"],
)
def incomplete(context: LintContext) -> Iterator[Violation]:
    """Find tokenizer_config.json without any file that could contain a vocabulary."""
    names = context.folder.entries
    vocabularies = (VOCABULARY, PIECES, *OTHER_VOCABULARIES)
    if SETTINGS in names and not any(name in names for name in vocabularies):
        yield Violation(SETTINGS, f"the folder has {SETTINGS}, but no {VOCABULARY}")


@rule(
    "tokenizer-code",
    severity=Severity.ERROR,
    title="The tokenizer's settings refer to no code and no other files",
    why="A loader with trust_remote_code runs the code that auto_map names, and the content of "
    "other files was not checked.",
    fix="save the base's own tokenizer with the adapter",
    needs=["tokenizer"],
)
def code(context: LintContext) -> Iterator[Violation]:
    """Find paths, and an auto_map unless the base has the same one."""
    settings = context.tokenizer_settings
    based = read_object(context.base, SETTINGS) if context.has("base's tokenizer") else {}
    auto_map = settings.get("auto_map")
    if auto_map and auto_map != based.get("auto_map"):
        yield Violation(SETTINGS, "auto_map names code that creates the tokenizer")
    others = [name for name in _FILE_FIELDS if settings.get(name)]
    if settings.get("fast_tokenizer_files") not in (None, [], [VOCABULARY]):
        others.append("fast_tokenizer_files")
    for name in others:
        yield Violation(SETTINGS, f"{name} names another file instead of {VOCABULARY}")


@rule(
    "tokenizer-contradiction",
    severity=Severity.ERROR,
    title="The tokenizer's files agree on every token's id",
    why="Programs read different files, so the same text becomes different tokens in each program.",
    fix="save the base's own tokenizer with the adapter",
    needs=["tokenizer"],
)
def contradiction(context: LintContext) -> Iterator[Violation]:
    """Find tokens that have different ids in two files."""
    own = context.tokenizer
    if own is None:
        return  # tokenizer-unreadable reports it, or there is no vocabulary
    for token in own.file.id_mismatches if own.file else ():
        number = own.tokens[token]
        yield Violation(VOCABULARY, f"added_tokens lists {token!r} with an id other than {number}")
    for name, token, number in own.declared_ids:
        known = own.tokens.get(token)
        if known is None:
            yield Violation(name, f"the token {token!r} is not in any other file")
        elif known != number:
            yield Violation(
                name, f"the token {token!r} has the id {number}, but {known} in another file"
            )
    if own.file and context.folder.file(PIECES):
        yield from _other_pieces(context, own.tokens)


def _other_pieces(context: LintContext, tokens: Mapping[str, int]) -> Iterator[Violation]:
    try:
        data = _own_pieces(context)
        pieces = parse_pieces(data) if data else ()
    except AdapterError:
        return  # tokenizer-unreadable reports it
    moved = [piece[0] for n, piece in enumerate(pieces) if tokens.get(piece[0], n) != n]
    if moved:
        text = f"{len(moved)} pieces have different ids in {VOCABULARY}, such as {moved[0]!r}"
        yield Violation(PIECES, text)


@rule(
    "tokenizer-stop-token",
    severity=Severity.ERROR,
    title="There is a stop token, and it is in the vocabulary",
    why="Without it, generation never stops, and the template's end-of-turn marker is split into "
    "meaningless pieces.",
    fix="save the base's own tokenizer with the adapter",
    needs=["tokenizer"],
)
def stop_token(context: LintContext) -> Iterator[Violation]:
    """Find an eos_token that is not set or not in the vocabulary.

    tokenizer-special-tokens compares it with the base's.
    """
    own = context.tokenizer
    stop = own.special["eos_token"] if own else None
    if own and stop is None and not context.has("base's tokenizer"):
        yield Violation(SETTINGS, "eos_token is not set")
    if own and own.file and stop is not None and stop not in own.file.tokens:
        yield Violation(SETTINGS, f"eos_token is {stop!r}, which is not in the vocabulary")


@rule(
    "tokenizer-settings",
    severity=Severity.ERROR,
    title="transformers accepts the tokenizer's settings",
    why="transformers cannot build a tokenizer with an unknown padding or truncation side. A "
    "maximum length that is too small truncates every prompt to a few words.",
    fix="save the tokenizer again with save_pretrained",
    needs=["tokenizer"],
)
def settings(context: LintContext) -> Iterator[Violation]:
    """Find invalid sides, and a maximum length that is invalid or too small."""
    found = context.tokenizer_settings
    for name in ("padding_side", "truncation_side"):
        if name in found and found[name] not in ("left", "right"):
            yield Violation(SETTINGS, f"{name} must be 'left' or 'right': it is {found[name]!r}")
    length = found.get("model_max_length")
    if length is None:
        return
    if type(length) not in (int, float):
        yield Violation(SETTINGS, f"model_max_length must be a number: it is {length!r}")
    elif not length >= MIN_LENGTH:
        yield Violation(SETTINGS, f"model_max_length is too small for any prompt: it is {length}")


@rule(
    "tokenizer-length",
    severity=Severity.WARNING,
    title="tokenizer.json neither truncates nor pads",
    why="A trainer leaves its maximum length in tokenizer.json. transformers resets it with each "
    "call, but a program that reads the file with the tokenizers library alone applies it: it "
    "cuts long prompts, and pads short ones to that length.",
    fix='set "truncation" and "padding" to null in tokenizer.json; or call '
    "tokenizer.backend_tokenizer.no_truncation() and .no_padding() before save_pretrained",
    needs=["tokenizer"],
)
def length(context: LintContext) -> Iterator[Violation]:
    """Find truncation and padding that are stored in the file, unless the base has the same."""
    own = context.tokenizer.file if context.tokenizer else None
    base = context.base_tokenizer if context.has("base's tokenizer") else None
    based = base.file.length_settings if base and base.file else {}
    for part, size in (own.length_settings if own else {}).items():
        if based.get(part) != size:
            yield Violation(
                FieldOf(VOCABULARY, part),
                f"{_LENGTHS[part]} {size}; transformers resets this, and other programs apply it",
            )


@rule(
    "tokenizer-pad-is-stop",
    severity=Severity.WARNING,
    title="The padding token does not end a turn, unless it does so in the base",
    why="Padding is masked from the loss. If the same token ends a turn, the model never learns "
    "to stop, and answers run to the length limit.",
    fix="train with the base's own pad token, <|endoftext|>",
    needs=["tokenizer"],
)
def pad_is_stop(context: LintContext) -> Iterator[Violation]:
    """Find a pad token that ends a turn, unless the base was trained with it."""
    pad = special_token(context.tokenizer_settings, "pad_token")
    if pad != _TURN_END:
        return
    base = read_object(context.base, SETTINGS) if context.has("base") else {}
    if special_token(base, "pad_token") != pad:
        yield Violation(SETTINGS, f"pad_token is {pad}, which ends every turn of Phi-3's chat")


def _own_pieces(context: LintContext) -> bytes | None:
    """Return tokenizer.model if it is a SentencePiece model other than the base's."""
    data = read_small(context.folder, PIECES, MAX_PIECES_BYTES)
    if data is None or is_tiktoken(data):
        return None
    based = context.has("base") and context.base.read_bytes(PIECES, MAX_PIECES_BYTES) == data
    return None if based else data


_READERS: Mapping[str, Callable[[LintContext], object]] = {
    SETTINGS: lambda context: read_object(context.folder, SETTINGS),
    SPECIAL_MAP: lambda context: read_object(context.folder, SPECIAL_MAP),
    ADDED_TOKENS: lambda context: read_object(context.folder, ADDED_TOKENS),
    # Before tokenizer.json: if that is missing, its reader reads tokenizer.model.
    PIECES: lambda context: (data := _own_pieces(context)) and parse_pieces(data),
    VOCABULARY: lambda context: context.tokenizer or read_tokenizer(context.folder),
    TEMPLATE: lambda context: context.templates or read_templates(context.folder),
}
