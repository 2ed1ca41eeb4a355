"""Family tokenizer: how the tokenizer in the folder behaves, independently of its files.

Both tokenizers are loaded as the loaders do, and encode and decode the same texts (see
`tokenizer.tokenizer_behaviour`). These rules find a difference; the rules that compare files
explain it.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.tokenizer.sentencepiece_model import PIECES
from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import (
    Difference,
    DifferenceKind,
    TokenizerComparison,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS
from phi3_lora_qa.adapter.tokenizer.tokenizer_json import VOCABULARY
from phi3_lora_qa.errors import AdapterError

_USE_BASE = "save the base's own tokenizer with the adapter, or leave the tokenizer out"


@rule(
    "tokenizer-behaviour",
    severity=Severity.ERROR,
    title="Every loader's tokenizer encodes and decodes text as the base's does",
    why="A tokenizer's behaviour depends on its class, its settings and its files together. If it "
    "splits text differently, its prompts are not those that were judged.",
    fix=_USE_BASE,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def behaviour(context: LintContext) -> Iterator[Violation]:
    """Run both tokenizers on texts that take every branch of either."""
    try:
        comparison = context.tokenizer_comparison
    except AdapterError as error:
        yield Violation(SETTINGS, error.what, error.fix)
        return
    if comparison is None:
        return
    if comparison.error:
        yield Violation(SETTINGS, f"the tokenizer could not be tested: {comparison.error}")
    for way, message in comparison.load_errors.items():
        yield Violation(_where(way), f"{_tokenizer_of(way)} cannot be loaded: {message}")
    for found in comparison.differences:
        if found.kind is not DifferenceKind.WHITESPACE:
            yield Violation(_where(found.loader), _describe(found))


@rule(
    "tokenizer-words",
    severity=Severity.ERROR,
    title="No ordinary word was added as a token without being trained",
    why="Added tokens are split off from every text first. The word then becomes one token that "
    "the model has never seen, so the model reads it as noise.",
    fix=_USE_BASE,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def words(context: LintContext) -> Iterator[Violation]:
    """Find added tokens that are not markers such as <|tool|> or [PAD]."""
    for token, number in _words(context, trained=False).items():
        yield Violation(VOCABULARY, f"{token!r} was added as token {number}, but not trained")


@rule(
    "tokenizer-words-trained",
    severity=Severity.WARNING,
    title="The gate's tokenizer has every word of the adapter's tokenizer",
    why="The gate uses the base's tokenizer. How the adapter handles words that were added and "
    "trained shows only if it is served with its own tokenizer.",
    fix="gate the adapter on a base whose tokenizer has the words",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def trained_words(context: LintContext) -> Iterator[Violation]:
    """Find added words whose rows were trained."""
    for token, number in _words(context, trained=True).items():
        yield Violation(VOCABULARY, f"{token!r} was added as token {number}")


@rule(
    "tokenizer-versions",
    severity=Severity.WARNING,
    title="All versions of transformers treat spaces as the base's tokenizer does",
    why="Versions of transformers write SentencePiece's treatment of spaces in several ways, and "
    "choose a class by config.json, which an adapter's folder lacks. Spaces after special tokens "
    "and at the start of a text can then become other tokens.",
    fix="load the tokenizer from the base, not from the adapter's folder",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def versions(context: LintContext) -> Iterator[Violation]:
    """Find tokenizers that equal the base's in another version's form, and different spaces."""
    comparison = _comparison(context)
    if comparison is None:
        return
    for way, spelling in comparison.matched_variants.items():
        yield Violation(_where(way), f"{_tokenizer_of(way)} is a variant of the base's: {spelling}")
    if context.folder.file(PIECES) and not context.base.has_file(PIECES):
        yield Violation(
            PIECES, "the base has no such file: texts were compared, but not its scores"
        )
    for found in comparison.differences:
        if found.kind is DifferenceKind.WHITESPACE:
            yield Violation(_where(found.loader), _describe(found))


def _comparison(context: LintContext) -> TokenizerComparison | None:
    try:
        return context.tokenizer_comparison
    except AdapterError:
        return None  # tokenizer-behaviour reports it


def _words(context: LintContext, *, trained: bool) -> dict[str, int]:
    comparison = _comparison(context)
    config = context.config if context.has("config") else None
    if comparison is None or not comparison.new_words:
        return {}
    rows = (
        {t for tokens in config.trainable_token_indices.values() for t in tokens} if config else ()
    )
    named = (*config.modules_to_save, *config.target_modules) if config else ()
    whole = any("embed_tokens" in name for name in named)
    return {t: n for t, n in comparison.new_words.items() if (whole or n in rows) is trained}


def _describe(found: Difference) -> str:
    what = {
        DifferenceKind.IDS: "encodes",
        DifferenceKind.SPECIAL_TOKENS: "encodes, with different special tokens,",
        DifferenceKind.TEXT: "decodes the tokens of",
        DifferenceKind.WHITESPACE: "decodes, with different spacing, the tokens of",
    }[found.kind]
    return (
        f"{_tokenizer_of(found.loader)} {what} {found.text!r:.60} as {found.ours:.80}, but the "
        f"base's as {found.theirs:.80} ({found.count} texts differ)"
    )


def _tokenizer_of(way: str) -> str:
    return "transformers' tokenizer" if way == "transformers" else f"the tokenizer of {way}"


def _where(way: str) -> str:
    return SETTINGS if way == "transformers" else way
