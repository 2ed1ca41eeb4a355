"""Family tokenizer, continued: what the tokenizer in the folder does, whatever its files say.

Both tokenizers are made as loaders make them, and cut the same texts (see `tokenizer_behaviour`).
The rules that compare files explain a difference; these find it.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.tokenizer.sentencepiece_model import PIECES
from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import (
    Difference,
    DifferenceKind,
    TokenizerComparison,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS
from phi3_lora_qa.adapter.tokenizer.tokenizer_json import VOCABULARY
from phi3_lora_qa.errors import AdapterError

_OWN = "save the base's own tokenizer beside the adapter, or leave the tokenizer out"


@rule(
    "tokenizer-behaviour",
    severity=Severity.ERROR,
    title="Every loader's tokenizer makes of a text what the base's makes of it",
    why="What a tokenizer does hangs on its class, its settings and its files together. One that "
    "cuts a text otherwise makes other prompts of it than were judged.",
    fix=_OWN,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def behaviour(context: LintContext) -> Iterator[Violation]:
    """Try both on texts that take every branch of either."""
    try:
        trial = context.tokenizer_trial
    except AdapterError as error:
        what, _, fix = str(error).rpartition("; ")
        yield Violation(SETTINGS, what, fix)
        return
    if trial is None:
        return
    if trial.error:
        yield Violation(SETTINGS, f"nobody knows what the tokenizer does: {trial.error}")
    for way, message in trial.load_errors.items():
        yield Violation(_where(way), f"{_made(way)} cannot be made: {message}")
    for found in trial.differences:
        if found.kind is not DifferenceKind.WHITESPACE:
            yield Violation(_where(found.loader), _told(found))


@rule(
    "tokenizer-words",
    severity=Severity.ERROR,
    title="No word that may stand in any text was added without being trained",
    why="An added token is cut out of every text before anything else: the word is then one token "
    "that the model has never seen, and reads as noise.",
    fix=_OWN,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def words(context: LintContext) -> Iterator[Violation]:
    """Find added tokens that are no markers such as <|tool|> or [PAD]."""
    for token, number in _words(context, trained=False).items():
        yield Violation(VOCABULARY, f"{token!r} was added as the token {number}, and not trained")


@rule(
    "tokenizer-words-trained",
    severity=Severity.WARNING,
    title="The gate judges with every word of the adapter's tokenizer",
    why="It asks with the base's tokenizer. What the adapter makes of words that were added and "
    "trained shows only where it is served with its own.",
    fix="judge the adapter on a base whose tokenizer has the words",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def trained_words(context: LintContext) -> Iterator[Violation]:
    """Find words that were added, and whose rows were trained."""
    for token, number in _words(context, trained=True).items():
        yield Violation(VOCABULARY, f"{token!r} was added as the token {number}")


@rule(
    "tokenizer-versions",
    severity=Severity.WARNING,
    title="Versions of transformers treat the base's blanks as the folder does",
    why="They write what SentencePiece does with blanks in several ways, and choose a class by "
    "config.json, which an adapter's folder does not have: blanks behind special tokens, and at a "
    "text's start, then become other tokens.",
    fix="load the tokenizer from the base and not from the adapter's folder",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def versions(context: LintContext) -> Iterator[Violation]:
    """Find tokenizers that are the base's in another version's spelling, and other blanks."""
    trial = _trial(context)
    if trial is None:
        return
    for way, spelling in trial.matched_variants.items():
        yield Violation(_where(way), f"{_made(way)} is the base's in another form: {spelling}")
    if context.folder.file(PIECES) and not context.base.has_file(PIECES):
        yield Violation(
            PIECES, "the base has none: it was tried on texts, and its scores not compared"
        )
    for found in trial.differences:
        if found.kind is DifferenceKind.WHITESPACE:
            yield Violation(_where(found.loader), _told(found))


def _trial(context: LintContext) -> TokenizerComparison | None:
    try:
        return context.tokenizer_trial
    except AdapterError:
        return None  # tokenizer-behaviour says it


def _words(context: LintContext, *, trained: bool) -> dict[str, int]:
    trial = _trial(context)
    config = context.config if context.has("config") else None
    if trial is None or not trial.new_words:
        return {}
    rows = (
        {t for tokens in config.trainable_token_indices.values() for t in tokens} if config else ()
    )
    named = (*config.modules_to_save, *config.target_modules) if config else ()
    whole = any("embed_tokens" in name for name in named)
    return {t: n for t, n in trial.new_words.items() if (whole or n in rows) is trained}


def _told(found: Difference) -> str:
    what = {
        DifferenceKind.IDS: "cuts",
        DifferenceKind.SPECIAL_TOKENS: "puts other tokens around",
        DifferenceKind.TEXT: "joins the tokens of",
        DifferenceKind.WHITESPACE: "joins, with other blanks, the tokens of",
    }[found.kind]
    return (
        f"{_made(found.loader)} {what} {found.text!r:.60} to {found.ours:.80}, the base's to "
        f"{found.theirs:.80} ({found.count} texts)"
    )


def _made(way: str) -> str:
    return "the tokenizer that transformers makes" if way == "transformers" else f"that of {way}"


def _where(way: str) -> str:
    return SETTINGS if way == "transformers" else way
