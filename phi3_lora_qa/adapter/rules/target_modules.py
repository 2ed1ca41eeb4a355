"""Family tensors: the modules, layers and token rows that the config names."""

import re
from collections.abc import Iterator

from phi3_lora_qa.adapter.architecture import FUSED_OF
from phi3_lora_qa.adapter.base_modules import BaseModule, ModuleKind
from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.expected_tensors import TABLES
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation
from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.module_names import matches_suffix, name_suffixes
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.target_matching import layer_index
from phi3_lora_qa.adapter.tensor_names import FACTORS

PROJECTIONS = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj",
    "down_proj",
)  # fmt: skip
"""The names of projections that a pattern for Phi-3 or Llama may contain."""

_LINEAR_ONLY = (
    "lora_bias",
    "use_bdlora",
    "velora_config",
    "monteclora_config",
    "target_parameters",
)


@rule(
    "tensors-target-unsupported",
    severity=Severity.ERROR,
    title="peft can adapt every target",
    why="peft raises an error for any other kind of layer, and if no name matches, but only after "
    "it has loaded the base.",
    fix="correct the names in the config; to train a norm, list it in modules_to_save",
    needs=["expected tensors"],
)
def target_unsupported(context: LintContext) -> Iterator[Violation]:
    """Find norms and tables that cannot be adapted as requested, and configs that match nothing."""
    expected, config = context.expected, context.config
    shares = config.ensure_weight_tying and _ties_tables(context)
    for module in expected.targeted.values():
        if reason := _unadaptable(module, config, shares=shares):
            yield Violation(FieldOf(CONFIG, "target_modules"), f"{module.name} {reason}")
    for name in expected.adapted_twice:
        message = f"target_modules and target_parameters both name {name}"
        yield Violation(
            FieldOf(CONFIG, "target_parameters"), message, "name it in only one of the two"
        )
    if not expected.targeted:
        message = "the config's targets match no module, so peft rejects the adapter"
        fix = "name some of Phi-3's modules: qkv_proj, o_proj, gate_up_proj, down_proj"
        yield Violation(FieldOf(CONFIG, "target_modules"), message, fix)


@rule(
    "tensors-token-rows",
    severity=Severity.ERROR,
    title="trainable_token_indices names existing rows of a table",
    why="peft raises an error for an unknown table, and for a row beyond the last.",
    fix="name embed_tokens or lm_head, and tokens of the base's vocabulary",
    needs=["expected tensors"],
)
def token_rows(context: LintContext) -> Iterator[Violation]:
    """Find unknown tables, and tokens beyond the last row."""
    where = FieldOf(CONFIG, "trainable_token_indices")
    for name, tokens in context.config.trainable_token_indices.items():
        tables = [m for n, m in context.expected.modules.items() if matches_suffix(n, name)]
        if not any(m.leaf in TABLES for m in tables):
            yield Violation(where, f"{name} is not a table of the base")
        for module in tables:
            rows = module.inputs if module.kind is ModuleKind.EMBEDDING else module.outputs
            if rows is not None and max(tokens) >= rows:
                yield Violation(
                    where, f"token {max(tokens)} is beyond the {rows} rows of {module.name}"
                )


@rule(
    "tensors-target-idle",
    severity=Severity.WARNING,
    title="Every target names a module of the base",
    why="Phi-3 fuses its projections: q_proj, k_proj, v_proj, gate_proj and up_proj match nothing, "
    "and peft trains the other targets without a warning, often only o_proj and down_proj. The "
    "adapter loads and answers, but most of what was to be trained was not.",
    fix="train again with qkv_proj, o_proj, gate_up_proj and down_proj",
    needs=["expected tensors"],
)
def target_idle(context: LintContext) -> Iterator[Violation]:
    """Find names, layers and patterns that match nothing."""
    yield from _idle_targets(context)
    excluded = context.config.exclude_modules
    if isinstance(excluded, tuple):
        ends = {tail for name in context.expected.modules for tail in name_suffixes(name)}
        for name in sorted(set(excluded) - ends):
            fix = f"correct or remove {name} in exclude_modules"
            yield Violation(FieldOf(CONFIG, "exclude_modules"), f"{name} matches no module", fix)
    weights = [f"{module}.weight" for module in context.expected.modules]
    for name in context.config.target_parameters:
        if not any(matches_suffix(weight, name) for weight in weights):
            fix = f"correct or remove {name} in target_parameters"
            yield Violation(FieldOf(CONFIG, "target_parameters"), f"{name} matches no weight", fix)
    count = 1 + max((layer_index(name) or 0 for name in context.expected.modules), default=0)
    for layer in context.config.layers_to_transform or ():
        if layer >= count:
            reason = f"the base has {count}" if context.has("base") else "no Phi-3 has that many"
            message = f"there is no layer {layer}: {reason}"
            yield Violation(
                FieldOf(CONFIG, "layers_to_transform"), message, f"remove {layer} from the list"
            )
    parts = [module.split(".") for module in context.expected.modules]
    names = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
    for name in context.config.modules_to_save:
        if not any(module.endswith(name) for module in names):
            message = f"{name} matches no module, so it was neither trained nor saved"
            fix = f"correct {name} and train again, or remove it from modules_to_save"
            yield Violation(FieldOf(CONFIG, "modules_to_save"), message, fix)
    for field, pattern in context.unused_patterns:
        fix = f"correct or remove the entry in {field}"
        yield Violation(FieldOf(CONFIG, field), f"{pattern} matches no adapted module", fix)


def _idle_targets(context: LintContext) -> Iterator[Violation]:
    """Find targets without a module, and say what was trained instead, in one finding.

    A name whose factors are in the file was trained, on another base: tensors-unknown-module
    reports those. If nothing was matched, tensors-target-unsupported reports that.
    """
    named = _named_targets(context)
    ends = {tail for name in context.expected.modules for tail in name_suffixes(name)}
    stored = (key.module for key in context.keys.values() if key.part in FACTORS)
    ends |= {tail for name in stored for tail in name_suffixes(name)}
    idle = [name for name in named if name not in ends]
    trained = list(dict.fromkeys(module.leaf for module in context.expected.targeted.values()))
    if not idle or not trained:
        return
    all_linear = {m.leaf for m in context.expected.modules.values() if m.kind is ModuleKind.LINEAR}
    only = "" if all_linear - {"lm_head"} <= set(trained) else "only "
    where = "the base" if context.has("base") else "a Phi-3"
    exist = "exists" if len(named) - len(idle) == 1 else "exist"
    message = (
        f"{only}{_joined(trained)} {'were' if len(trained) > 1 else 'was'} trained: "
        f"{len(named) - len(idle)} of the {len(named)} names in target_modules {exist} in {where}, "
        f"and {_joined(idle)} {'match' if len(idle) > 1 else 'matches'} no module"
    )
    yield Violation(FieldOf(CONFIG, "target_modules"), message, _idle_fix(idle))


def _named_targets(context: LintContext) -> list[str]:
    """Return the names in target_modules; of a pattern, the names of projections that are in it."""
    targets = context.config.target_modules
    if isinstance(targets, tuple):
        return list(dict.fromkeys(targets))
    if context.matching.all_linear:
        return []
    words = set(re.findall(r"[A-Za-z0-9_]+", targets))
    return [name for name in PROJECTIONS if name in words]


def _idle_fix(idle: list[str]) -> str:
    """Return the fix for names that match nothing: the fused names, or another spelling."""
    fused: dict[str, list[str]] = {}
    for name in idle:
        if near := FUSED_OF.get(name.rpartition(".")[2]):
            fused.setdefault(near, []).append(name)
    others = [name for name in idle if name.rpartition(".")[2] not in FUSED_OF]
    parts = [f"{near} instead of {_joined(names)}" for near, names in fused.items()]
    again = f"train again with {', and '.join(parts)}" if parts else ""
    correct = f"correct {_joined(others)} in target_modules" if others else ""
    correct += "" if again or not others else " and train again"
    steps = ", and ".join(filter(None, (again, correct)))
    return f"{steps}, or remove the names that match nothing if this is what you wanted to train"


def _joined(names: list[str], most: int = 8) -> str:
    """Return names as a list in words, shortened."""
    shown = [f"{name:.120}" for name in names[:most]]
    if more := len(names) - len(shown):
        shown.append(f"{more} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _ties_tables(context: LintContext) -> bool:
    """Whether the base ties its tables; without a base, whether the file has factors for both."""
    if context.has("base"):
        return context.base.is_tied
    factors = (key.module for key in context.keys.values() if key.part in FACTORS)
    return len({module for module in factors if module.endswith(TABLES)}) > 1


def _unadaptable(module: BaseModule, config: LoraAdapterConfig, *, shares: bool) -> str:
    """Say why peft cannot adapt a module, or this tool cannot check it; empty if both can.

    ``shares``: whether ensure_weight_tying uses one pair of factors for both tables.
    """
    if module.kind is ModuleKind.NORM:
        return "is a norm"
    if shares and module.leaf in TABLES:
        return "is a table, and ensure_weight_tying adapts both tables with one pair of factors"
    if module.kind is ModuleKind.EMBEDDING:
        named = next((name for name in _LINEAR_ONLY if getattr(config, name)), "")
        return f"is an embedding, which {named} cannot adapt" if named else ""
    if blocks := config.use_bdlora:
        lists = blocks.splits_a(module.name) + blocks.splits_b(module.name)
        if lists == 2:
            return "is in both lists of use_bdlora"
        if lists == 0 and blocks.strict:
            return "is in neither list of use_bdlora, although match_strict requires it"
    return ""
