"""Family tokenizer: the tokenizer in the folder speaks the base's language."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Hit, Severity, rule
from phi3_lora_qa.adapter.keys import Part, tensor_name
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.adapter.subject import Subject
from phi3_lora_qa.adapter.templates import (
    SETTINGS,
    TEMPLATE,
    VOCABULARY,
    chat_template,
    special_token,
    tokenizer_settings,
)
from phi3_lora_qa.errors import AdapterError

_TURN_END = "<|end|>"


@rule(
    "tokenizer-unreadable",
    severity=Severity.ERROR,
    title="The tokenizer's files can be read",
    why="Whoever loads the tokenizer from this folder fails, or gets another one.",
    fix="save the tokenizer again with save_pretrained",
    needs=["tokenizer"],
)
def unreadable(subject: Subject) -> Iterator[Hit]:
    """Find tokenizer files that are no strict JSON or no UTF-8."""
    for name, read in ((SETTINGS, tokenizer_settings), (TEMPLATE, chat_template)):
        try:
            read(subject.folder)
        except AdapterError as error:
            what, _, fix = str(error).rpartition("; ")
            yield Hit(name, what, fix)
            return
    if not subject.has("base") and not subject.tokens and "vocabulary" in subject.errors:
        what, _, fix = subject.errors["vocabulary"].rpartition("; ")
        yield Hit(VOCABULARY, what, fix)


@rule(
    "tokenizer-template",
    severity=Severity.ERROR,
    title="The chat template is the base's, or its change is recorded in the manifest",
    why="With another template the adapter sees prompts that it was not trained on; a template "
    "can also add text to every prompt that nobody sees.",
    fix="save the base's own tokenizer beside the adapter; or, if it was trained with another "
    "template on purpose, record it in the manifest",
    needs=["tokenizer", "base"],
)
def template(subject: Subject) -> Iterator[Hit]:
    """Compare the two templates' texts."""
    ours, theirs = subject.template, subject.base_template
    declared = subject.manifest.chat_template_sha256 if subject.has("manifest") else None
    if ours is None or theirs is None or ours == theirs or template_hash(ours) == declared:
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    yield Hit(TEMPLATE, f"the chat template differs from the base's at {ours[at : at + 60]!r}")


@rule(
    "tokenizer-template-declared",
    severity=Severity.WARNING,
    title="The chat template is the base's",
    why="The manifest records that another template was used; whoever serves the adapter must "
    "use it too.",
    fix="serve the adapter with the tokenizer of its own folder",
    needs=["tokenizer", "base", "manifest"],
)
def template_declared(subject: Subject) -> Iterator[Hit]:
    """Find templates that differ and are declared."""
    ours, theirs = subject.template, subject.base_template
    declared = template_hash(ours) == subject.manifest.chat_template_sha256
    if ours is not None and theirs is not None and ours != theirs and declared:
        yield Hit(TEMPLATE, "the chat template is not the base's, as the manifest says")


@rule(
    "tokenizer-pad-is-stop",
    severity=Severity.WARNING,
    title="The padding token does not end a turn, unless it does so in the base",
    why="Padding is masked from the loss. If it is the token that ends a turn, the model never "
    "learns to stop, and answers run to the limit.",
    fix="train with the base's own pad token, <|endoftext|>",
    needs=["tokenizer"],
)
def pad_is_stop(subject: Subject) -> Iterator[Hit]:
    """Find a pad token that is the end of a turn; a base that pads with it was trained so."""
    pad = special_token(_settings(subject), "pad_token")
    if pad is None or pad != _TURN_END:
        return
    base = tokenizer_settings(subject.base) if subject.has("base") else {}
    if special_token(base, "pad_token") != pad:
        yield Hit(SETTINGS, f"pad_token is {pad}, which ends every turn of Phi-3's chat")


@rule(
    "tokenizer-vocabulary",
    severity=Severity.ERROR,
    title="Every token has the number that it has in the base",
    why="A token under another number is another word to the model.",
    fix="save the base's own tokenizer beside the adapter",
    needs=["tokenizer", "base"],
)
def vocabulary(subject: Subject) -> Iterator[Hit]:
    """Compare the two vocabularies, where both are there."""
    for kind, text in _vocabulary_faults(subject):
        if kind == "differs":
            yield Hit(VOCABULARY, text)


@rule(
    "tokenizer-added-tokens",
    severity=Severity.ERROR,
    title="Every token has a row in the embedding table",
    why="A token beyond the table's last row raises an index error, or reads another's memory.",
    fix="train with the embedding table resized and in modules_to_save, and give that base",
    needs=["tokenizer", "base"],
)
def added_tokens(subject: Subject) -> Iterator[Hit]:
    """Find tokens whose number is beyond the base's table."""
    for kind, text in _vocabulary_faults(subject):
        if kind == "outside":
            yield Hit(VOCABULARY, text)


@rule(
    "tokenizer-stop-token",
    severity=Severity.ERROR,
    title="The stop token is in the vocabulary",
    why="Without it generation never ends by itself, and the template's end of turn is cut into "
    "pieces that mean nothing.",
    fix="save the base's own tokenizer beside the adapter",
    needs=["tokenizer"],
)
def stop_token(subject: Subject) -> Iterator[Hit]:
    """Find an eos_token that no entry of tokenizer.json stands for."""
    stop = special_token(_settings(subject), "eos_token")
    if stop is not None and subject.tokens and stop not in subject.tokens:
        yield Hit(SETTINGS, f"eos_token is {stop!r}, which the vocabulary does not have")


@rule(
    "tokenizer-untrained-tokens",
    severity=Severity.WARNING,
    title="Every added token was trained",
    why="A token that the base does not know uses a spare row of its table, which holds noise "
    "until it is trained: the model reads and writes noise there.",
    fix="train with modules_to_save or trainable_token_indices for the new tokens' rows",
    needs=["tokenizer", "base", "config"],
)
def untrained_tokens(subject: Subject) -> Iterator[Hit]:
    """Find tokens on spare rows of the base, in an adapter that leaves the table alone."""
    config = subject.config
    trained = {t for tokens in config.trainable_token_indices.values() for t in tokens}
    named = (*config.modules_to_save, *config.target_modules)
    if any("embed_tokens" in name for name in named):
        return
    theirs, rows = subject.base_tokens, subject.base.vocabulary
    added = [
        token
        for token, number in subject.tokens.items()
        if token not in theirs and number < rows and number not in trained
    ]
    if added and theirs:
        shown = ", ".join(map(repr, added[:3]))
        yield Hit(VOCABULARY, f"{len(added)} tokens that the base does not know: {shown}")


def _settings(subject: Subject) -> dict[str, object]:
    try:
        return dict(tokenizer_settings(subject.folder))
    except AdapterError:
        return {}  # tokenizer-unreadable reports it


def _vocabulary_faults(subject: Subject) -> Iterator[tuple[str, str]]:
    ours, theirs = subject.tokens, subject.base_tokens
    if not ours or ours is theirs:
        if "vocabulary" in subject.errors:
            yield "differs", subject.errors["vocabulary"]
        return
    moved = [t for t, number in ours.items() if theirs.get(t, number) != number]
    gone = [t for t in theirs if t not in ours]
    if moved or gone:
        shown = ", ".join(map(repr, (moved or gone)[:3]))
        yield "differs", f"{len(moved)} tokens have other numbers, {len(gone)} are gone: {shown}"
    resized = tensor_name("model.embed_tokens", Part.WEIGHT) in subject.keys
    outside = [t for t, number in ours.items() if number >= subject.base.vocabulary]
    if outside and not resized:
        yield (
            "outside",
            (
                f"{len(outside)} tokens, {outside[0]!r} among them, are beyond the base's "
                f"{subject.base.vocabulary} rows"
            ),
        )
