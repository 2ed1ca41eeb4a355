"""Family manifest: the adapter is the one that its training recorded."""

import math
import re
from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Hit, Severity, rule
from phi3_lora_qa.adapter.folder import CONFIG, MANIFEST, is_loaded
from phi3_lora_qa.adapter.lint_context import Subject
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
def unreadable(subject: Subject) -> Iterator[Hit]:
    """Find a manifest that is there and no good."""
    if MANIFEST in subject.folder.entries and not subject.has("manifest"):
        what, _, fix = subject.errors["manifest"].rpartition("; ")
        yield Hit(MANIFEST, what, fix)


@rule(
    "manifest-file-changed",
    severity=Severity.ERROR,
    title="Every file that a loader reads is the one that training recorded",
    why="A file was damaged, mixed up, edited or added after training: what was evaluated then is "
    "not what lies here.",
    fix="copy the folder from the training output again, or record the change in a new manifest",
    needs=["manifest"],
)
def file_changed(subject: Subject) -> Iterator[Hit]:
    """Compare the hashes of all files that are loaded."""
    for name in changed_files(subject.folder, subject.manifest):
        if is_loaded(name):
            yield Hit(name, f"{name} is {_state(subject, name)}")


@rule(
    "manifest-contradiction",
    severity=Severity.ERROR,
    title="The manifest agrees with itself and with the config",
    why="A manifest whose hashes are the folder's, but which speaks of another tokenizer, another "
    "chat template or another base, was pieced together: nothing that it says can be relied on.",
    fix="write it again with the training, or remove it",
    needs=["manifest"],
)
def contradiction(subject: Subject) -> Iterator[Hit]:
    """Compare what is recorded twice; a file that was changed is manifest-file-changed's."""
    manifest = subject.manifest
    if not any(map(is_loaded, changed_files(subject.folder, manifest))):
        if manifest.tokenizer_sha256 != tokenizer_hash(subject.folder):
            yield Hit(MANIFEST, "tokenizer_sha256 is not the hash of the tokenizer's files")
        default = subject.templates.default if subject.templates else None
        if manifest.chat_template_sha256 != template_hash(default.text if default else None):
            yield Hit(MANIFEST, "chat_template_sha256 is not the hash of the chat template")
    named = subject.config.base_model_name_or_path if subject.has("config") else None
    ids = (named or "", manifest.base_id)
    if all(map(_HUB_ID.fullmatch, ids)) and ids[0].lower() != ids[1].lower():
        yield Hit(MANIFEST, f"the base is {ids[1]}, and {ids[0]} in {CONFIG}")


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@rule(
    "manifest-card-changed",
    severity=Severity.INFO,
    title="The model card, and other files for people, are those that training recorded",
    why="A card may be edited later, and files be added; the adapter is the same.",
    fix="record the change in a new manifest, or leave it",
    needs=["manifest"],
)
def card_changed(subject: Subject) -> Iterator[Hit]:
    """Compare the hashes of the files that no loader reads."""
    for name in changed_files(subject.folder, subject.manifest):
        if not is_loaded(name):
            yield Hit(name, f"{name} is {_state(subject, name)}")


def _state(subject: Subject, name: str) -> str:
    if not subject.folder.file(name):
        return "recorded, but not there"
    return "not as recorded" if name in subject.manifest.files else "there, but not recorded"


@rule(
    "manifest-base",
    severity=Severity.ERROR,
    title="The base is the one that the adapter was trained on",
    why="Bases of one family have the same shapes: an adapter for another one, or for another "
    "revision, loads without a word and changes the wrong weights.",
    fix="give the base of the training, or train again on this one",
    needs=["manifest", "base"],
)
def base(subject: Subject) -> Iterator[Hit]:
    """Compare the two fingerprints, where both are known."""
    recorded, found = subject.manifest.base_fingerprint, subject.base.fingerprint
    if recorded and found and recorded != found:
        name = f" ({subject.manifest.base_id})" if subject.manifest.base_id else ""
        yield Hit(
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
def scaling(subject: Subject) -> Iterator[Hit]:
    """Compare the factors of all adapted modules."""
    recorded = dict(subject.manifest.scaling)
    for module in subject.implied.targeted:
        factor = subject.matching.scaling(module)
        known = recorded.pop(module, None)
        if known is None:
            yield Hit(module, f"training recorded no scaling for {module}")
        elif not math.isclose(known, factor, rel_tol=1e-9):
            yield Hit(module, f"the scaling is {factor:g}, training recorded {known:g}")
    for module in recorded:
        yield Hit(module, f"training recorded a scaling, but the config does not adapt {module}")


@rule(
    "manifest-losses",
    severity=Severity.ERROR,
    title="Training ended with losses that training can end with",
    why="A loss of exactly 0 means that every label was masked, so that nothing was learned; one "
    "far above that of guessing (the logarithm of the vocabulary's size), that training diverged.",
    fix="look at the data's masking, and train again",
    needs=["manifest"],
)
def losses(subject: Subject) -> Iterator[Hit]:
    """Find recorded losses that no training can end with."""
    for name, loss in subject.manifest.final_losses.items():
        if not 0 < loss <= MAX_LOSS:
            yield Hit(MANIFEST, f"the final loss {name} is {loss:g}")
