"""Family config: what adapter_config.json says, by itself."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.config import ProblemKind
from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.adapter.lint_context import LintContext


def _problems(context: LintContext, *kinds: ProblemKind) -> Iterator[Violation]:
    for problem in context.reading.problems if context.reading else ():
        if problem.kind in kinds:
            yield Violation(f"{CONFIG}: {problem.field}", problem.message, problem.fix)


@rule(
    "config-field-missing",
    severity=Severity.ERROR,
    title="Rank, alpha, targets and peft type are given",
    why="peft fills a missing r or lora_alpha with 8, which changes the adapter's strength.",
    fix="copy the adapter_config.json that peft wrote in training, whole",
)
def field_missing(context: LintContext) -> Iterator[Violation]:
    """Find required fields that are not there."""
    yield from _problems(context, ProblemKind.MISSING)


@rule(
    "config-value",
    severity=Severity.ERROR,
    title="Every field has a value of its type and range",
    why="A rank as text, a NaN alpha or another peft type fails late, or loads as something else.",
    fix="set the field to the value used in training",
)
def value(context: LintContext) -> Iterator[Violation]:
    """Find values that their field does not take."""
    yield from _problems(context, ProblemKind.VALUE)


@rule(
    "config-refused",
    severity=Severity.ERROR,
    title="No field changes the base or needs what is not checked",
    why="layer_replication, PiSSA, OLoRA and others rewrite the base's weights while loading: what "
    "the adapter is compared with is then no longer the base.",
    fix="convert the adapter to plain LoRA, or train without the field",
)
def refused(context: LintContext) -> Iterator[Violation]:
    """Find fields and init labels that are refused by name."""
    yield from _problems(context, ProblemKind.REFUSED)


@rule(
    "config-unknown-field",
    severity=Severity.ERROR,
    title="No unknown field is set",
    why="peft drops fields that it does not know with a warning, and with them what they meant.",
    fix="save with a peft version that this tool knows, or remove the field",
)
def unknown_field(context: LintContext) -> Iterator[Violation]:
    """Find fields of no known peft version that hold something."""
    yield from _problems(context, ProblemKind.UNKNOWN)


@rule(
    "config-conflict",
    severity=Severity.ERROR,
    title="The fields go together",
    why="peft raises on some combinations, but only once the base has been loaded.",
    fix="correct one of the two fields",
)
def conflict(context: LintContext) -> Iterator[Violation]:
    """Find combinations that peft refuses."""
    yield from _problems(context, ProblemKind.CONFLICT)


@rule(
    "config-pattern",
    severity=Severity.ERROR,
    title="Patterns can be matched in bounded time",
    why="peft hands them to Python's re, where a short pattern can take longer than any CI waits.",
    fix="write the modules' names as a list",
    needs=["config"],
)
def pattern(context: LintContext) -> Iterator[Violation]:
    """Find patterns outside the safe syntax, and invalid ones."""
    if not context.has("implied") and "matching" in context.errors:
        what, _, fix = context.errors["matching"].rpartition("; ")
        yield Violation(CONFIG, what, fix)


@rule(
    "config-alpha-zero",
    severity=Severity.ERROR,
    title="No module's alpha is zero",
    why="With alpha 0 the scaling is 0, and the adapter does nothing.",
    fix="set lora_alpha (and alpha_pattern) to the values used in training",
    needs=["config"],
)
def alpha_zero(context: LintContext) -> Iterator[Violation]:
    """Find alphas of zero. A pattern that matches no module is told by tensors-target-idle."""
    idle: set[str] = set()
    if context.has("implied"):
        idle = {f"{CONFIG}: {field}[{pattern}]" for field, pattern in context.unused_patterns}
    for where, alpha in _alphas(context):
        if alpha == 0 and where not in idle:
            yield Violation(where, f"{where.partition(': ')[2]} is 0, so the adapter has no effect")


@rule(
    "config-alpha-negative",
    severity=Severity.WARNING,
    title="No module's alpha is negative",
    why="A negative alpha turns what was learned into its opposite. Task negation does so on "
    "purpose; otherwise it is a mistake.",
    fix="set the alpha used in training, or keep it if the task is to be negated",
    needs=["config"],
)
def alpha_negative(context: LintContext) -> Iterator[Violation]:
    """Find negative alphas."""
    for where, alpha in _alphas(context):
        if alpha < 0:
            yield Violation(
                where, f"{where.partition(': ')[2]} is {alpha:g}, which negates the adapter"
            )


@rule(
    "config-task-type",
    severity=Severity.ERROR,
    title="The task is causal language modelling",
    why="Another task type wraps the base in another class, with a head that Phi-3 does not have.",
    fix='set task_type to "CAUSAL_LM", if the adapter was trained on a causal language model',
    needs=["config"],
)
def task_type(context: LintContext) -> Iterator[Violation]:
    """Find other task types; null is accepted, as peft loads it as it is."""
    task = context.config.task_type
    if task not in (None, "CAUSAL_LM"):
        yield Violation(f"{CONFIG}: task_type", f"task_type is {task!r}, not CAUSAL_LM")


@rule(
    "config-task-type-null",
    severity=Severity.INFO,
    title="The task type is given",
    why="Loaders other than PeftModel take the class from it.",
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
    title="The base is named by an id that others have too",
    why="AutoPeftModel and others load the base from this field; a path of the training machine "
    "means nothing elsewhere. It is never followed here.",
    fix='set base_model_name_or_path to the hub id, such as "microsoft/Phi-3-mini-4k-instruct"',
    needs=["config"],
)
def machine_path(context: LintContext) -> Iterator[Violation]:
    """Find absolute and relative paths as the base's name."""
    name = context.config.base_model_name_or_path or ""
    if name.startswith(("/", "./", "../", "~")) or "\\" in name or name[1:2] == ":":
        yield Violation(
            f"{CONFIG}: base_model_name_or_path",
            f"the base is named by a path of one machine, {name}",
        )


@rule(
    "config-base-name",
    severity=Severity.ERROR,
    title="The base that the config names is the one that was given",
    why="Whoever loads the adapter by its own word (AutoPeftModel, AutoModelForCausalLM, a "
    "converter) loads the base that it names: another model, another commit, or what somebody "
    "proposed in a pull request.",
    fix="give the base that the adapter was trained on, or correct base_model_name_or_path and "
    "revision",
    needs=["config"],
)
def base_name(context: LintContext) -> Iterator[Violation]:
    """Compare names that can be compared: no paths; a quantised upload is the same model."""
    named, given = _named(context), _given(context)
    if _HUB_ID.fullmatch(named) and given and _model(named) != _model(given):
        yield Violation(_NAME, f"the config names the base {named}, given is {given}")
    revision = context.config.revision or ""
    if _PROPOSED.match(revision):
        yield Violation(
            _REVISION, f"the revision is {revision}, which anybody can propose to the base's owner"
        )
    commits = revision, _commit_of(context.base) if context.has("base") else ""
    if named == given and all(map(_COMMIT.fullmatch, commits)) and commits[0] != commits[1]:
        yield Violation(_REVISION, f"the config names {commits[0]}, given is {commits[1]}")
    named = (context.config.base_model_name_or_path or "").replace("\\", "/")
    for part in () if PurePosixPath(named).is_absolute() else PurePosixPath(named).parts:
        if part in context.folder.entries:
            yield Violation(
                _NAME, f"the config names {named}, and {part} lies in the adapter's folder"
            )
            return


@rule(
    "config-base-source",
    severity=Severity.WARNING,
    title="The base that the config names is its owner's, at a commit or at its main branch",
    why="A copy of another owner is that owner's to change, and so is a branch: whoever goes by "
    "the config may load other weights than were checked.",
    fix="set base_model_name_or_path to the id of the base that was given, and revision to null or "
    "a commit",
    needs=["config"],
)
def base_source(context: LintContext) -> Iterator[Violation]:
    """Find copies of the base by other owners, names of other families, branches and tags."""
    named, given = _named(context), _given(context)
    if not _HUB_ID.fullmatch(named):
        if _HUB_ID.fullmatch(given) and _SHORT_ID.fullmatch(named) and named != _model(given):
            yield Violation(
                _NAME, f"the config names {named}, which may be another model than {given}"
            )
    elif given and _model(named) == _model(given) and named.lower() != given.lower():
        yield Violation(_NAME, f"the config names {named}, another's copy of {given}")
    elif (
        context.has("base")
        and not given
        and _OTHER_FAMILY.search(named)
        and "phi" not in named.lower()
    ):
        yield Violation(_NAME, f"the config names {named}, which by its name is no Phi-3")
    revision = context.config.revision or "main"
    if revision != "main" and not _COMMIT.fullmatch(revision) and not _PROPOSED.match(revision):
        yield Violation(_REVISION, f"the revision {revision} is a branch or a tag, and may move")
    elif _COMMIT.fullmatch(revision) and context.has("base") and not _commit_of(context.base):
        # The commit of a pull request has a hash as any other.
        yield Violation(
            _REVISION, f"{revision} cannot be compared: the given base's commit is not known"
        )


_NAME, _REVISION = f"{CONFIG}: base_model_name_or_path", f"{CONFIG}: revision"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHORT_ID = re.compile(r"\w[\w.-]*")
_COMMIT = re.compile("[0-9a-f]{40}")
_PROPOSED = re.compile(r"\s*/*refs(/|%2f)(?!heads/|tags/)|.*\bpr(/|%2f)\d", re.IGNORECASE)
_QUANTISED = re.compile(
    r"[-_.](unsloth|bnb|[48]bits?|gptq|awq|gguf|int[48]|nf4|fp8|fp4|w[48]a\d+|hf|quantized|dynamic)"
    r"(?=[-_.]|$)"
)
_OTHER_FAMILY = re.compile(
    "llama|mistral|mixtral|qwen|gemma|falcon|bloom|deepseek|gpt|pythia|vicuna|zephyr|opt-|yi-",
    re.IGNORECASE,
)
"""Families of models whose names stand in the ids of models; `phi` beside one means a Phi."""


def _model(identifier: str) -> str:
    """Return which model an id means, whoever uploaded it, in whatever precision."""
    return _QUANTISED.sub("", identifier.rpartition("/")[2].lower())


def _named(context: LintContext) -> str:
    return (context.config.base_model_name_or_path or "").rstrip("/")


def _given(context: LintContext) -> str:
    return _id_of(context.base) if context.has("base") else ""


def _id_of(base: BaseFiles) -> str:
    """Return the base's id: as it was given, as the hub's cache has it, or as its config says."""
    cached = [part for part in base.path.parts if part.startswith("models--")]
    if base.id and not Path(base.id).is_absolute():
        return base.id
    said = base.config.get("_name_or_path")
    return cached[-1][8:].replace("--", "/") if cached else said if isinstance(said, str) else ""


def _commit_of(base: BaseFiles) -> str:
    return base.path.name if base.path.parent.name == "snapshots" else ""


def _alphas(context: LintContext) -> Iterator[tuple[str, float]]:
    yield f"{CONFIG}: lora_alpha", context.config.lora_alpha
    for key, alpha in context.config.alpha_pattern.items():
        yield f"{CONFIG}: alpha_pattern[{key}]", alpha
