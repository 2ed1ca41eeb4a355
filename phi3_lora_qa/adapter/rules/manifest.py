"""Family manifest: the adapter is the one that its training recorded."""

import math
import re
from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.folder import CONFIG, MANIFEST, is_loaded
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.manifest import changed_files, template_hash, tokenizer_hash

MAX_LOSS = 30.0
"""In nats per token; guessing among 100,000 tokens costs 11.5."""


@rule(
    "manifest-unreadable",
    severity=Severity.ERROR,
    title="The manifest, where there is one, can be read",
    why="A damaged manifest proves nothing.",
    fix="write it again with the training, or remove it",
)
def unreadable(context: LintContext) -> Iterator[Violation]:
    """Find a manifest that is there and no good."""
    if MANIFEST in context.folder.entries and not context.has("manifest"):
        what, _, fix = context.errors["manifest"].rpartition("; ")
        yield Violation(MANIFEST, what, fix)


@rule(
    "manifest-file-changed",
    severity=Severity.ERROR,
    title="Every file that a loader reads is the one that training recorded",
    why="A file was damaged, mixed up, edited or added after training: what was evaluated then is "
    "not what lies here.",
    fix="copy the folder from the training output again, or record the change in a new manifest",
    needs=["manifest"],
)
def file_changed(context: LintContext) -> Iterator[Violation]:
    """Compare the hashes of all files that are loaded."""
    for name in changed_files(context.folder, context.manifest):
        if is_loaded(name):
            yield Violation(name, f"{name} is {_state(context, name)}")


@rule(
    "manifest-contradiction",
    severity=Severity.ERROR,
    title="The manifest agrees with itself and with the config",
    why="A manifest whose hashes are the folder's, but which speaks of another tokenizer, another "
    "chat template or another base, was pieced together: nothing that it says can be relied on.",
    fix="write it again with the training, or remove it",
    needs=["manifest"],
)
def contradiction(context: LintContext) -> Iterator[Violation]:
    """Compare what is recorded twice; a file that was changed is manifest-file-changed's."""
    manifest = context.manifest
    if not any(map(is_loaded, changed_files(context.folder, manifest))):
        if manifest.tokenizer_sha256 != tokenizer_hash(context.folder):
            yield Violation(MANIFEST, "tokenizer_sha256 is not the hash of the tokenizer's files")
        default = context.templates.default if context.templates else None
        if manifest.chat_template_sha256 != template_hash(default.text if default else None):
            yield Violation(MANIFEST, "chat_template_sha256 is not the hash of the chat template")
    named = context.config.base_model_name_or_path if context.has("config") else None
    ids = (named or "", manifest.base_id)
    if all(map(_HUB_ID.fullmatch, ids)) and ids[0].lower() != ids[1].lower():
        yield Violation(MANIFEST, f"the base is {ids[1]}, and {ids[0]} in {CONFIG}")


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@rule(
    "manifest-card-changed",
    severity=Severity.INFO,
    title="The model card, and other files for people, are those that training recorded",
    why="A card may be edited later, and files be added; the adapter is the same.",
    fix="record the change in a new manifest, or leave it",
    needs=["manifest"],
)
def card_changed(context: LintContext) -> Iterator[Violation]:
    """Compare the hashes of the files that no loader reads."""
    for name in changed_files(context.folder, context.manifest):
        if not is_loaded(name):
            yield Violation(name, f"{name} is {_state(context, name)}")


def _state(context: LintContext, name: str) -> str:
    if not context.folder.file(name):
        return "recorded, but not there"
    return "not as recorded" if name in context.manifest.files else "there, but not recorded"


@rule(
    "manifest-base",
    severity=Severity.ERROR,
    title="The base is the one that the adapter was trained on",
    why="Bases of one family have the same shapes: an adapter for another one, or for another "
    "revision, loads without a word and changes the wrong weights.",
    fix="give the base of the training, or train again on this one",
    needs=["manifest", "base"],
)
def base(context: LintContext) -> Iterator[Violation]:
    """Compare the two fingerprints, where both are known."""
    recorded, found = context.manifest.base_fingerprint, context.base.fingerprint
    if recorded and found and recorded != found:
        name = f" ({context.manifest.base_id})" if context.manifest.base_id else ""
        yield Violation(
            MANIFEST,
            f"training recorded the base {recorded[:12]}…{name}, this one is {found[:12]}…",
        )


@rule(
    "manifest-scaling",
    severity=Severity.ERROR,
    title="Every module has the scaling that it was trained with",
    why="A changed alpha, rank or use_rslora loads without a word, and the adapter acts too "
    "strongly or too weakly.",
    fix="restore lora_alpha, r, use_rslora and the patterns to what the manifest records",
    needs=["manifest", "implied"],
)
def scaling(context: LintContext) -> Iterator[Violation]:
    """Compare the factors of all adapted modules."""
    recorded = dict(context.manifest.scaling)
    for module in context.implied.targeted:
        factor = context.matching.scaling(module)
        known = recorded.pop(module, None)
        if known is None:
            yield Violation(module, f"training recorded no scaling for {module}")
        elif not math.isclose(known, factor, rel_tol=1e-9):
            yield Violation(module, f"the scaling is {factor:g}, training recorded {known:g}")
    for module in recorded:
        yield Violation(
            module, f"training recorded a scaling, but the config does not adapt {module}"
        )


@rule(
    "manifest-losses",
    severity=Severity.ERROR,
    title="Training ended with losses that training can end with",
    why="A loss of exactly 0 means that every label was masked, so that nothing was learned; one "
    "far above that of guessing (the logarithm of the vocabulary's size), that training diverged.",
    fix="look at the data's masking, and train again",
    needs=["manifest"],
)
def losses(context: LintContext) -> Iterator[Violation]:
    """Find recorded losses that no training can end with."""
    for name, loss in context.manifest.final_losses.items():
        if not 0 < loss <= MAX_LOSS:
            yield Violation(MANIFEST, f"the final loss {name} is {loss:g}")
