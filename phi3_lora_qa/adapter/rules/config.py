"""Family config: the content of adapter_config.json."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.config import ProblemKind
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation
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
    why="peft sets a missing r or lora_alpha to 8, which changes the adapter's scaling. It fails "
    "without the other two.",
    fix="copy the complete adapter_config.json that peft wrote in training",
)
def field_missing(context: LintContext) -> Iterator[Violation]:
    """Find required fields that are missing."""
    yield from _problems(context, ProblemKind.MISSING)


@rule(
    "config-value",
    severity=Severity.ERROR,
    title="Every field has a value of its type and in its range",
    why="A rank given as text, a NaN alpha or a different PEFT type fails late, or loads as "
    "something else.",
    fix="set the field to the value used in training",
)
def value(context: LintContext) -> Iterator[Violation]:
    """Find values of a wrong type or out of range."""
    yield from _problems(context, ProblemKind.VALUE)


@rule(
    "config-refused",
    severity=Severity.ERROR,
    title="No field modifies the base or depends on something that cannot be checked",
    why="layer_replication, PiSSA, OLoRA and others rewrite the base's weights during loading, so "
    "the comparison would no longer be with the base.",
    fix="convert the adapter to plain LoRA, or train without the field",
)
def refused(context: LintContext) -> Iterator[Violation]:
    """Find fields and init_lora_weights labels that are rejected by name."""
    yield from _problems(context, ProblemKind.REFUSED)


@rule(
    "config-unknown-field",
    severity=Severity.ERROR,
    title="No unknown field switches something on",
    why="peft drops unknown fields with a warning, together with their effect: a variant of LoRA "
    "that the installed version does not know loads as plain LoRA.",
    fix="remove the field if it was for training only; otherwise train without it",
)
def unknown_field(context: LintContext) -> Iterator[Violation]:
    """Find fields of unknown variants: flags, objects called _config, and those of newer peft."""
    yield from _problems(context, ProblemKind.UNKNOWN)


@rule(
    "config-field-ignored",
    severity=Severity.WARNING,
    title="peft reads every field that has a value",
    why="peft drops unknown fields with a warning. What peft loads is what was checked, but not "
    "necessarily what was trained, if the field changed the model in training.",
    fix="remove the field if it was for training only; otherwise train without it",
)
def field_ignored(context: LintContext) -> Iterator[Violation]:
    """Find fields of no known version of peft that do not look like switches."""
    yield from _problems(context, ProblemKind.IGNORED)


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
    title="Every pattern is valid, and Python's re matches it in bounded time",
    why="peft passes patterns to Python's re, where a short pattern can run longer than any CI "
    "job.",
    fix="write the modules' names as a list",
    needs=["config"],
)
def pattern(context: LintContext) -> Iterator[Violation]:
    """Find invalid patterns, slow ones, and ones that say what the weights file does not."""
    if not context.has("expected tensors") and "matching" in context.errors:
        error = context.errors["matching"]
        yield Violation(CONFIG, error.what, error.fix)


@rule(
    "config-pattern-unmatched",
    severity=Severity.INFO,
    title="Every pattern is of a kind that can be matched in linear time",
    why="A pattern with a back reference, for example, can only be matched by Python's re, which "
    "may take forever. The linter does not do that: it takes what the weights file says, and the "
    "gate loads the adapter with the names from there.",
    fix="write the names of the modules as a list instead",
    needs=["expected tensors"],
)
def pattern_unmatched(context: LintContext) -> Iterator[Violation]:
    """Find patterns that were resolved with the tensors in the weights file."""
    for found in context.matching.unmatched:
        assumed = (
            "the rank of each module was taken from its tensors"
            if found.field == "rank_pattern"
            else "the modules with factors in the weights file were taken as the adapted ones"
        )
        yield Violation(
            FieldOf(CONFIG, found.field),
            f"{found.field} was not matched, because it may take too long ({found.reason}): "
            f"{assumed}",
        )


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
        where = FieldOf(CONFIG, field)
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
                FieldOf(CONFIG, field), f"{field} is {alpha:g}, which negates the adapter"
            )


@rule(
    "config-task-type",
    severity=Severity.ERROR,
    title="The task type is causal language modelling",
    why="Another task type wraps the base in a different class, whose head Phi-3 does not have.",
    fix='set task_type to "CAUSAL_LM" if the adapter was trained on a causal language model',
    needs=["config"],
)
def task_type(context: LintContext) -> Iterator[Violation]:
    """Find other task types. Null is accepted, because peft then loads the adapter as it is."""
    task = context.config.task_type
    if task not in (None, "CAUSAL_LM"):
        yield Violation(FieldOf(CONFIG, "task_type"), f"task_type is {task!r}, not CAUSAL_LM")


@rule(
    "config-task-type-null",
    severity=Severity.INFO,
    title="The config sets the task type",
    why="Loaders other than PeftModel choose the model class by this field.",
    fix='set task_type to "CAUSAL_LM"',
    needs=["config"],
)
def task_type_null(context: LintContext) -> Iterator[Violation]:
    """Find configs without a task type."""
    if context.config.task_type is None:
        yield Violation(FieldOf(CONFIG, "task_type"), "task_type is null")


def _alphas(context: LintContext) -> Iterator[tuple[str, float]]:
    yield "lora_alpha", context.config.lora_alpha
    for key, alpha in context.config.alpha_pattern.items():
        yield f"alpha_pattern[{key}]", alpha
