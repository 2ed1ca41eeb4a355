"""Family manifest: the adapter compared with the manifest that its training wrote."""

import math
from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import CONFIG, MANIFEST, is_loaded
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.manifest import changed_files, template_hash, tokenizer_hash
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.rules.base_identity import HUB_ID

MAX_LOSS = 30.0
"""In nats per token; guessing among 100,000 tokens costs 11.5."""


@rule(
    "manifest-unreadable",
    severity=Severity.ERROR,
    title="The manifest, if there is one, can be read",
    why="A damaged manifest proves nothing.",
    fix="write it again at the end of training, or remove it",
)
def unreadable(context: LintContext) -> Iterator[Violation]:
    """Find a manifest that exists and cannot be read."""
    if MANIFEST in context.folder.entries and not context.has("manifest"):
        error = context.errors["manifest"]
        yield Violation(MANIFEST, error.what, error.fix)


@rule(
    "manifest-file-changed",
    severity=Severity.ERROR,
    title="Every file that a loader reads is unchanged since training",
    why="A file was damaged, replaced, edited or added after training, so the folder is not the "
    "adapter that was evaluated then.",
    fix="copy the folder from the training output again, or record the change in a new manifest",
    needs=["manifest"],
)
def file_changed(context: LintContext) -> Iterator[Violation]:
    """Compare the hashes of all files that are loaded."""
    for name in changed_files(context.folder, context.manifest):
        if is_loaded(name):
            yield Violation(name, _change(context, name))


@rule(
    "manifest-contradiction",
    severity=Severity.ERROR,
    title="The manifest agrees with itself and with the config",
    why="If the recorded hashes match the folder but the manifest describes another tokenizer, "
    "another chat template or another base, it was pieced together, and nothing in it can be "
    "trusted.",
    fix="write it again at the end of training, or remove it",
    needs=["manifest"],
)
def contradiction(context: LintContext) -> Iterator[Violation]:
    """Compare what is recorded twice. manifest-file-changed reports changed files."""
    manifest = context.manifest
    if not any(map(is_loaded, changed_files(context.folder, manifest))):
        if manifest.tokenizer_sha256 != tokenizer_hash(context.folder):
            yield Violation(MANIFEST, "tokenizer_sha256 is not the hash of the tokenizer's files")
        default = context.templates.default if context.templates else None
        if manifest.chat_template_sha256 != template_hash(default.text if default else None):
            yield Violation(MANIFEST, "chat_template_sha256 is not the hash of the chat template")
    named = context.config.base_model_name_or_path if context.has("config") else None
    ids = (named or "", manifest.base_id)
    if all(map(HUB_ID.fullmatch, ids)) and ids[0].lower() != ids[1].lower():
        yield Violation(MANIFEST, f"it names the base {ids[1]}, but {CONFIG} names {ids[0]}")


@rule(
    "manifest-card-changed",
    severity=Severity.INFO,
    title="The model card, and other files that no loader reads, are unchanged since training",
    why="The card may be edited later, and files may be added; the adapter is the same.",
    fix="record the change in a new manifest, or leave it as it is",
    needs=["manifest"],
)
def card_changed(context: LintContext) -> Iterator[Violation]:
    """Compare the hashes of the files that no loader reads."""
    for name in changed_files(context.folder, context.manifest):
        if not is_loaded(name):
            yield Violation(name, _change(context, name))


def _change(context: LintContext, name: str) -> str:
    if not context.folder.file(name):
        return "the file is in the manifest, but missing from the folder"
    if name in context.manifest.files:
        return "the file changed since training: its hash differs from the manifest"
    return "the file was added after training: it is not in the manifest"


@rule(
    "manifest-base",
    severity=Severity.ERROR,
    title="The base is the one that the adapter was trained on",
    why="Bases of one family have the same shapes. An adapter for another base, or another "
    "revision, loads silently and changes the wrong weights.",
    fix="pass the base used in training, or train again on this one",
    needs=["manifest", "base weights"],
)
def base(context: LintContext) -> Iterator[Violation]:
    """Compare the two fingerprints, if both are known."""
    recorded, found = context.manifest.base_fingerprint, context.base.fingerprint
    if recorded and found and recorded != found:
        name = f" ({context.manifest.base_id})" if context.manifest.base_id else ""
        yield Violation(
            MANIFEST,
            f"training recorded the base {recorded[:12]}…{name}, but this one is {found[:12]}…",
        )


@rule(
    "manifest-scaling",
    severity=Severity.ERROR,
    title="Every module has the scaling that it was trained with",
    why="A changed alpha, rank or use_rslora loads silently, and the adapter acts too strongly or "
    "too weakly.",
    fix="restore lora_alpha, r, use_rslora and the patterns to the values that the manifest "
    "records",
    needs=["manifest", "expected tensors"],
)
def scaling(context: LintContext) -> Iterator[Violation]:
    """Compare the scaling of all adapted modules."""
    recorded = dict(context.manifest.scaling)
    for module in context.expected.targeted:
        factor = context.matching.scaling(module)
        known = recorded.pop(module, None)
        if known is None:
            yield Violation(module, f"training recorded no scaling for {module}")
        elif not math.isclose(known, factor, rel_tol=1e-9):
            yield Violation(module, f"the scaling is {factor:g}, but training recorded {known:g}")
    for module in recorded:
        yield Violation(
            module, f"training recorded a scaling, but the config does not adapt {module}"
        )


@rule(
    "manifest-losses",
    severity=Severity.ERROR,
    title="Training ended with plausible losses",
    why="A loss of exactly 0 means that every label was masked, so nothing was learned. A loss "
    "far above that of guessing (the logarithm of the vocabulary size) means that training "
    "diverged.",
    fix="check the label masking, and train again",
    needs=["manifest"],
)
def losses(context: LintContext) -> Iterator[Violation]:
    """Find recorded final losses that no sound training has."""
    for name, loss in context.manifest.final_losses.items():
        if not 0 < loss <= MAX_LOSS:
            yield Violation(MANIFEST, f"the final loss {name} is {loss:g}")
