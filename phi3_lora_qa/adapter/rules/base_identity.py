"""Family config: the base that the config names, compared with the base of this check."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation
from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.model_id import model_of
from phi3_lora_qa.adapter.path_texts import looks_like_path
from phi3_lora_qa.adapter.rule import rule

_NAME, _REVISION = FieldOf(CONFIG, "base_model_name_or_path"), FieldOf(CONFIG, "revision")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHORT_ID = re.compile(r"\w[\w.-]*")
_COMMIT = re.compile("[0-9a-f]{40}")
_PULL_REQUEST = re.compile(r"\s*/*refs(/|%2f)(?!heads/|tags/)|.*\bpr(/|%2f)\d", re.IGNORECASE)
_OTHER_FAMILY = re.compile(
    "llama|mistral|mixtral|qwen|gemma|falcon|bloom|deepseek|gpt|pythia|vicuna|zephyr|opt-|yi-",
    re.IGNORECASE,
)
"""Names of other model families in model ids; an id that also contains `phi` is a Phi model."""


@rule(
    "config-machine-path",
    severity=Severity.INFO,
    title="The config names the base by a public id",
    why="AutoPeftModel and others load the base from this field. A path on the training machine "
    "does not exist elsewhere. The linter never follows it.",
    fix='set base_model_name_or_path to the hub id, such as "microsoft/Phi-3-mini-4k-instruct"',
    needs=["config"],
)
def machine_path(context: LintContext) -> Iterator[Violation]:
    """Find paths and addresses in place of the base's id."""
    name = context.config.base_model_name_or_path or ""
    if looks_like_path(name) or name.startswith("~") or "\\" in name or name[1:2] == ":":
        yield Violation(
            FieldOf(CONFIG, "base_model_name_or_path"),
            f"the config names the base by a path or an address: {name}",
        )


@rule(
    "config-base-name",
    severity=Severity.ERROR,
    title="The config names the base that the adapter is checked against",
    why="AutoPeftModel, AutoModelForCausalLM and converters load the base that the config names. "
    "That may be another model, another commit, or an unreviewed pull request.",
    fix="pass the base that the adapter was trained on, or correct base_model_name_or_path and "
    "revision",
    needs=["config"],
)
def base_name(context: LintContext) -> Iterator[Violation]:
    """Compare the names that can be compared.

    Paths cannot. A quantised upload counts as the same model.
    """
    named, given = _base_in_config(context), _base_checked(context)
    if HUB_ID.fullmatch(named) and given and model_of(named) != model_of(given):
        yield Violation(
            _NAME, f"the config names the base {named}, but the base for this check is {given}"
        )
    revision = context.config.revision or ""
    if _PULL_REQUEST.match(revision):
        yield Violation(
            _REVISION, f"the revision is {revision}, a pull request that anyone can open"
        )
    commits = revision, _commit_of(context.base) if context.has("base") else ""
    if named == given and all(map(_COMMIT.fullmatch, commits)) and commits[0] != commits[1]:
        yield Violation(
            _REVISION,
            f"the config names commit {commits[0]}, but the base for this check is {commits[1]}",
        )
    named = (context.config.base_model_name_or_path or "").replace("\\", "/")
    for part in () if PurePosixPath(named).is_absolute() else PurePosixPath(named).parts:
        if part in context.folder.entries:
            yield Violation(
                _NAME,
                f"the config names {named}, and the adapter's folder contains {part}",
            )
            return


@rule(
    "config-base-source",
    severity=Severity.WARNING,
    title="The config names the original upload of the base, at a commit or on its main branch",
    why="Another owner can change their copy, and a branch can move. A program that follows the "
    "config may then load weights that were never checked.",
    fix="set base_model_name_or_path to the id of the base that was passed, and revision to null "
    "or a commit",
    needs=["config"],
)
def base_source(context: LintContext) -> Iterator[Violation]:
    """Find copies by other owners, names of other model families, branches and tags."""
    named, given = _base_in_config(context), _base_checked(context)
    if not HUB_ID.fullmatch(named):
        if HUB_ID.fullmatch(given) and _SHORT_ID.fullmatch(named) and named != model_of(given):
            yield Violation(
                _NAME, f"the config names {named}, which may be a different model from {given}"
            )
    elif given and model_of(named) == model_of(given) and named.lower() != given.lower():
        yield Violation(_NAME, f"the config names {named}, another owner's copy of {given}")
    elif not given and _has_phi_modules(context) and _is_of_other_family(named):
        yield Violation(
            _NAME,
            f"the config names {named}, which is not a Phi-3, judging by its name",
            "set base_model_name_or_path to the id of the base that it was trained on",
        )
    revision = context.config.revision or "main"
    if revision != "main" and not _COMMIT.fullmatch(revision) and not _PULL_REQUEST.match(revision):
        yield Violation(_REVISION, f"the revision {revision} is a branch or a tag, which can move")
    elif _COMMIT.fullmatch(revision) and context.has("base") and not _commit_of(context.base):
        # The commit of a pull request looks like any other commit.
        yield Violation(
            _REVISION, f"{revision} cannot be compared: the commit of the base is unknown"
        )


def _has_phi_modules(context: LintContext) -> bool:
    """Whether the base has Phi-3's own layout; without a base, whether the adapter says so."""
    if context.has("base"):
        return context.base.architecture.is_fused
    return bool(context.identity.base_of_adapter.is_phi)


def _is_of_other_family(named: str) -> bool:
    return _OTHER_FAMILY.search(named) is not None and "phi" not in named.lower()


def _base_in_config(context: LintContext) -> str:
    return (context.config.base_model_name_or_path or "").rstrip("/")


def _base_checked(context: LintContext) -> str:
    return context.base.public_id if context.has("base") else ""


def _commit_of(base: BaseFiles) -> str:
    return base.path.name if base.path.parent.name == "snapshots" else ""
