"""Family config: the content of adapter_config.json."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.config import ProblemKind
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule


def _problems(context: LintContext, *kinds: ProblemKind) -> Iterator[Violation]:
    for problem in context.reading.problems if context.reading else ():
        if problem.kind in kinds:
            yield Violation(f"{CONFIG}: {problem.field}", problem.message, problem.fix)


@rule(
    "config-field-missing",
    severity=Severity.ERROR,
    title="The config sets rank, alpha, target modules and PEFT type",
    why="peft sets a missing r or lora_alpha to 8, which changes the adapter's scaling.",
    fix="copy the complete adapter_config.json that peft wrote in training",
)
def field_missing(context: LintContext) -> Iterator[Violation]:
    """Find required fields that are missing."""
    yield from _problems(context, ProblemKind.MISSING)


@rule(
    "config-value",
    severity=Severity.ERROR,
    title="Every field has a value of its type and in its range",
    why="A rank given as text, a NaN alpha or another PEFT type fails late, or loads as something "
    "else.",
    fix="set the field to the value used in training",
)
def value(context: LintContext) -> Iterator[Violation]:
    """Find values of a wrong type or out of range."""
    yield from _problems(context, ProblemKind.VALUE)


@rule(
    "config-refused",
    severity=Severity.ERROR,
    title="No field modifies the base or needs what cannot be checked",
    why="layer_replication, PiSSA, OLoRA and others rewrite the base's weights during loading, so "
    "that the adapter is no longer compared with the base.",
    fix="convert the adapter to plain LoRA, or train without the field",
)
def refused(context: LintContext) -> Iterator[Violation]:
    """Find fields and init_lora_weights labels that are rejected by name."""
    yield from _problems(context, ProblemKind.REFUSED)


@rule(
    "config-unknown-field",
    severity=Severity.ERROR,
    title="No unknown field is set",
    why="peft drops unknown fields with a warning, together with their effect.",
    fix="save with a peft version that this tool knows, or remove the field",
)
def unknown_field(context: LintContext) -> Iterator[Violation]:
    """Find fields that no known version of peft has, and that have a value."""
    yield from _problems(context, ProblemKind.UNKNOWN)


@rule(
    "config-conflict",
    severity=Severity.ERROR,
    title="No two fields contradict each other",
    why="peft raises an error for some combinations, but only after it has loaded the base.",
    fix="correct one of the two fields",
)
def conflict(context: LintContext) -> Iterator[Violation]:
    """Find combinations that peft rejects."""
    yield from _problems(context, ProblemKind.CONFLICT)


@rule(
    "config-pattern",
    severity=Severity.ERROR,
    title="Every pattern can be matched in bounded time",
    why="peft passes patterns to Python's re, where a short pattern can run longer than any CI "
    "job.",
    fix="write the modules' names as a list",
    needs=["config"],
)
def pattern(context: LintContext) -> Iterator[Violation]:
    """Find invalid patterns, and patterns outside the safe syntax."""
    if not context.has("expected tensors") and "matching" in context.errors:
        error = context.errors["matching"]
        yield Violation(CONFIG, error.what, error.fix)


@rule(
    "config-alpha-zero",
    severity=Severity.ERROR,
    title="No module has an alpha of zero",
    why="An alpha of 0 makes the scaling 0, so the adapter has no effect.",
    fix="set lora_alpha (and alpha_pattern) to the values used in training",
    needs=["config"],
)
def alpha_zero(context: LintContext) -> Iterator[Violation]:
    """Find alphas of zero. tensors-target-idle reports patterns that match no module."""
    idle: set[str] = set()
    if context.has("expected tensors"):
        idle = {f"{field}[{pattern}]" for field, pattern in context.unused_patterns}
    for field, alpha in _alphas(context):
        where = f"{CONFIG}: {field}"
        if alpha == 0 and field not in idle:
            yield Violation(where, f"{field} is 0, so the adapter has no effect")


@rule(
    "config-alpha-negative",
    severity=Severity.WARNING,
    title="No module has a negative alpha",
    why="A negative alpha reverses what was learned. Task negation does so on purpose; otherwise "
    "it is a mistake.",
    fix="set the alpha used in training, or keep it if you want to negate the task",
    needs=["config"],
)
def alpha_negative(context: LintContext) -> Iterator[Violation]:
    """Find negative alphas."""
    for field, alpha in _alphas(context):
        if alpha < 0:
            yield Violation(
                f"{CONFIG}: {field}", f"{field} is {alpha:g}, which negates the adapter"
            )


@rule(
    "config-task-type",
    severity=Severity.ERROR,
    title="The task type is causal language modelling",
    why="Another task type wraps the base in another class, with a head that Phi-3 does not have.",
    fix='set task_type to "CAUSAL_LM" if the adapter was trained on a causal language model',
    needs=["config"],
)
def task_type(context: LintContext) -> Iterator[Violation]:
    """Find other task types. Null is accepted, because peft then loads the adapter as it is."""
    task = context.config.task_type
    if task not in (None, "CAUSAL_LM"):
        yield Violation(f"{CONFIG}: task_type", f"task_type is {task!r}, not CAUSAL_LM")


@rule(
    "config-task-type-null",
    severity=Severity.INFO,
    title="The config sets the task type",
    why="Loaders other than PeftModel choose the model class by it.",
    fix='set task_type to "CAUSAL_LM"',
    needs=["config"],
)
def task_type_null(context: LintContext) -> Iterator[Violation]:
    """Find configs without a task type."""
    if context.config.task_type is None:
        yield Violation(f"{CONFIG}: task_type", "task_type is null")


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
    """Find absolute and relative paths in place of the base's id."""
    name = context.config.base_model_name_or_path or ""
    if name.startswith(("/", "./", "../", "~")) or "\\" in name or name[1:2] == ":":
        yield Violation(
            f"{CONFIG}: base_model_name_or_path",
            f"the config names the base by a local path: {name}",
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
    if _HUB_ID.fullmatch(named) and given and _model(named) != _model(given):
        yield Violation(
            _NAME, f"the config names the base {named}, but the base for this check is {given}"
        )
    revision = context.config.revision or ""
    if _PULL_REQUEST.match(revision):
        yield Violation(
            _REVISION, f"the revision is {revision}, a pull request that anybody can open"
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
    title="The config names the owner's own upload of the base, at a commit or its main branch",
    why="Another owner can change their copy, and a branch can move. A program that follows the "
    "config may then load weights that were never checked.",
    fix="set base_model_name_or_path to the id of the base that was passed, and revision to null "
    "or a commit",
    needs=["config"],
)
def base_source(context: LintContext) -> Iterator[Violation]:
    """Find copies by other owners, names of other model families, branches and tags."""
    named, given = _base_in_config(context), _base_checked(context)
    if not _HUB_ID.fullmatch(named):
        if _HUB_ID.fullmatch(given) and _SHORT_ID.fullmatch(named) and named != _model(given):
            yield Violation(
                _NAME, f"the config names {named}, which may be a different model from {given}"
            )
    elif given and _model(named) == _model(given) and named.lower() != given.lower():
        yield Violation(_NAME, f"the config names {named}, another owner's copy of {given}")
    elif (
        context.has("base")
        and not given
        and _OTHER_FAMILY.search(named)
        and "phi" not in named.lower()
    ):
        yield Violation(_NAME, f"the config names {named}, which is not a Phi-3 by its name")
    revision = context.config.revision or "main"
    if revision != "main" and not _COMMIT.fullmatch(revision) and not _PULL_REQUEST.match(revision):
        yield Violation(_REVISION, f"the revision {revision} is a branch or a tag, which can move")
    elif _COMMIT.fullmatch(revision) and context.has("base") and not _commit_of(context.base):
        # The commit of a pull request looks like any other commit.
        yield Violation(
            _REVISION, f"{revision} cannot be compared: the commit of the base is unknown"
        )


_NAME, _REVISION = f"{CONFIG}: base_model_name_or_path", f"{CONFIG}: revision"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHORT_ID = re.compile(r"\w[\w.-]*")
_COMMIT = re.compile("[0-9a-f]{40}")
_PULL_REQUEST = re.compile(r"\s*/*refs(/|%2f)(?!heads/|tags/)|.*\bpr(/|%2f)\d", re.IGNORECASE)
_QUANTISED = re.compile(
    r"[-_.](unsloth|bnb|[48]bits?|gptq|awq|gguf|int[48]|nf4|fp8|fp4|w[48]a\d+|hf|quantized|dynamic)"
    r"(?=[-_.]|$)"
)
_OTHER_FAMILY = re.compile(
    "llama|mistral|mixtral|qwen|gemma|falcon|bloom|deepseek|gpt|pythia|vicuna|zephyr|opt-|yi-",
    re.IGNORECASE,
)
"""Names of other model families in model ids; an id that also contains `phi` is a Phi model."""


def _model(identifier: str) -> str:
    """Return the model that an id means, without its owner and precision."""
    return _QUANTISED.sub("", identifier.rpartition("/")[2].lower())


def _base_in_config(context: LintContext) -> str:
    return (context.config.base_model_name_or_path or "").rstrip("/")


def _base_checked(context: LintContext) -> str:
    return _id_of(context.base) if context.has("base") else ""


def _id_of(base: BaseFiles) -> str:
    """Return the base's id: as it was passed, or from the hub's cache, or from its config."""
    cached = [part for part in base.path.parts if part.startswith("models--")]
    if base.id and not Path(base.id).is_absolute():
        return base.id
    name = base.config.get("_name_or_path")
    return cached[-1][8:].replace("--", "/") if cached else name if isinstance(name, str) else ""


def _commit_of(base: BaseFiles) -> str:
    return base.path.name if base.path.parent.name == "snapshots" else ""


def _alphas(context: LintContext) -> Iterator[tuple[str, float]]:
    yield "lora_alpha", context.config.lora_alpha
    for key, alpha in context.config.alpha_pattern.items():
        yield f"alpha_pattern[{key}]", alpha
