"""Family basemodel: the files of the base, its weights, and its vocabulary."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.base_checks.base_foreign_files import foreign_files
from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse, base_rule
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_modules import HEAD
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@base_rule(
    "basemodel-files",
    severity=Severity.ERROR,
    title="Each file of the base is what its name says",
    why="git without git-lfs leaves pointers, and a browser or a failed download leaves a web page "
    "or a message of a server. Nothing can be compared with such a base.",
    fix="download the base again",
)
def files_are_own(base: BaseView) -> Iterator[Violation]:
    """Compare the first bytes of each file with its name."""
    for file in foreign_files(base.folder):
        yield Violation(file.name, f"the file is {file.kind}", file.fix)


@base_rule(
    "basemodel-shapes",
    severity=Severity.ERROR,
    title="The base's weights have the shapes that its config.json describes",
    why="A base of one size with the config.json of another cannot be loaded, and every tensor of "
    "the adapter would seem to have the wrong shape.",
    fix="use a base whose config.json matches its weights",
)
def weights_match_config(base: BaseView) -> Iterator[Violation]:
    """Compare the first layer and the tables with config.json."""
    if mismatch := base.files.first_mismatch():
        yield Violation("config.json", f"the weights do not match it: {mismatch}")


@base_rule(
    "basemodel-tied-head",
    title="The base's lm_head equals its embedding table if config.json says that they are one",
    why="transformers uses the file's lm_head if it differs, and vLLM uses the embedding "
    "table, so the base that is gated is not the base that is served.",
    fix="set tie_word_embeddings to false in the base's config.json if lm_head was trained; "
    "otherwise remove lm_head from the weights",
)
def tied_head_is_the_table(base: BaseView) -> Iterator[Violation]:
    """Compare some rows of both tables."""
    if base.files.is_tied and base.files.has_other_head():
        yield Violation(
            FieldOf("config.json", "tie_word_embeddings"),
            f"it is true, but the weights have a {HEAD} that differs from the embedding table",
        )


@base_rule(
    "basemodel-tokenizer",
    title="The base has a tokenizer",
    why="No text can be turned into tokens.",
    fix="save it there with tokenizer.save_pretrained, or download the whole base",
    blocks=(BaseUse.LOADING, BaseUse.ANSWERS),
)
def tokenizer_exists(base: BaseView) -> Iterator[Violation]:
    """Look for a vocabulary."""
    if not any(map(base.files.has_file, _TOKENIZERS)):
        yield Violation("tokenizer.json", f"the base has no tokenizer ({' or '.join(_TOKENIZERS)})")


@base_rule(
    "basemodel-vocabulary",
    title="The base has a row of its embedding table for each token",
    why="The model fails on a token without a row, or reads outside the table.",
    fix="use the base with its own tokenizer, or resize its tables (resize_token_embeddings)",
    blocks=(BaseUse.LOADING,),
)
def tokens_have_rows(base: BaseView) -> Iterator[Violation]:
    """Compare the number of tokens with the embedding table."""
    rows, tokens = base.files.vocabulary, base.added_tokens
    if base.is_thorough and base.tokenizer:
        tokens = base.tokenizer.tokens
    last = max(tokens.values(), default=-1)
    if 0 < rows <= last:
        yield Violation(
            "tokenizer.json", f"it has the token id {last}, and the embedding table has {rows} rows"
        )
