"""Family tensors: the names, shapes and dtypes of the tensors match the config."""

from collections.abc import Iterator, Mapping

from phi3_lora_qa.adapter.architecture import FUSED_OF
from phi3_lora_qa.adapter.expected_tensors import ExpectedTensor, Shape
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.module_names import name_suffixes
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.tensor_names import FACTORS, LORA_PARTS, Part, TensorKey

TABLES = ("embed_tokens", "lm_head")
"""The modules with a row for each token."""

_FUSE = "phi3-lora-qa convert fuse ADAPTER --base BASE -o DIR"
_FIELDS = {
    Part.MAGNITUDE: "use_dora", Part.B_BIAS: "lora_bias", Part.TOKENS: "trainable_token_indices",
    Part.VELORA: "velora_config", Part.EXPERTS: "monteclora_config",
    Part.EXPERTS_PRIOR: "monteclora_config", Part.VARIANCE_PRIOR: "monteclora_config",
    Part.DEVIATION_PRIOR: "monteclora_config",
}  # fmt: skip
"""The config's field that declares a part other than the factors."""
_TABLES = {
    "unembed_tokens": "lm_head", "embed_out": "lm_head", "output_layer": "lm_head",
    "wte": "model.embed_tokens", "tok_embeddings": "model.embed_tokens",
    "word_embeddings": "model.embed_tokens",
}  # fmt: skip
"""Other programs' names for the two tables, with Phi-3's."""
_PLAIN_DTYPES = ("F32", "F16", "BF16")


@rule(
    "tensors-key",
    severity=Severity.ERROR,
    title="Every tensor has a name in peft's format",
    why="peft ignores tensors with unknown names, so the base runs unchanged.",
    fix="save the adapter with peft's save_pretrained, from the unwrapped model",
    needs=["weights"],
)
def key(context: LintContext) -> Iterator[Violation]:
    """Find malformed names, and explain what is wrong with them."""
    for bad in context.bad_keys:
        yield Violation(bad.name, f"malformed name: {bad.cause}", bad.fix)


@rule(
    "tensors-adapter-name",
    severity=Severity.WARNING,
    title="No tensor's name contains the adapter's name",
    why='peft loads these names only if the adapter is called "default"; vLLM and llama.cpp do '
    "not know them.",
    fix="save the adapter with peft's save_pretrained, which leaves the name out",
    needs=["weights"],
)
def adapter_name(context: LintContext) -> Iterator[Violation]:
    """Find names such as lora_A.default.weight."""
    named = [key for key in context.keys.values() if key.adapter]
    if named:
        yield Violation(named[0].name, f"{len(named)} names contain the adapter's name")


@rule(
    "tensors-base-weight",
    severity=Severity.ERROR,
    title="No tensor replaces a weight of the base",
    why="peft copies such a tensor into the base model. Disabling the adapter then no longer "
    "restores the base.",
    fix="remove the tensor, or list its module in modules_to_save if it was trained on purpose",
    needs=["expected tensors"],
)
def base_weight(context: LintContext) -> Iterator[Violation]:
    """Find complete weights that the config does not declare."""
    for key in _unexpected(context):
        if key.part in LORA_PARTS:
            continue
        shape, rows = context.info(key).shape, context.base.vocabulary if context.has("base") else 0
        leaf = key.module.rpartition(".")[2]
        if leaf in TABLES and len(shape) == 2 and rows and shape[0] != rows:
            message = f"{_resized(shape[0], rows)}; the config does not name {leaf}"
            fix = f"list {leaf} in modules_to_save, and {_pass_resized(shape[0])}"
            yield Violation(key.name, message, fix)
        else:
            yield Violation(key.name, f"the tensor would overwrite {key.module} of the base")


@rule(
    "tensors-unknown-module",
    severity=Severity.ERROR,
    title="Every LoRA tensor belongs to a module of the base",
    why="peft silently drops a tensor whose module does not exist.",
    fix="use the base that the adapter was trained on",
    needs=["expected tensors"],
)
def unknown_module(context: LintContext) -> Iterator[Violation]:
    """Find tensors for modules that the base (or any Phi-3) does not have."""
    modules = context.expected.modules
    by_tail = {tail: name for name in modules for tail in name_suffixes(name)}
    seen = set[str]()
    for key in _unexpected(context):
        if key.part in LORA_PARTS and key.module not in modules and key.module not in seen:
            seen.add(key.module)
            message = f"the base has no module {key.module}"
            yield Violation(key.name, message, _nearest_fix(key.module, by_tail))


@rule(
    "tensors-untargeted",
    severity=Severity.ERROR,
    title="Every LoRA tensor belongs to a module that the config targets",
    why="peft silently drops the tensors of a module that the config does not name, so part of "
    "the training is lost.",
    fix="correct target_modules, exclude_modules or layers_to_transform to the values used in "
    "training",
    needs=["expected tensors"],
)
def untargeted(context: LintContext) -> Iterator[Violation]:
    """Find tensors of modules that the config excludes."""
    expected, seen = context.expected, set[str]()
    for key in _unexpected(context):
        known = key.module in expected.modules and key.module not in expected.targeted
        is_factor = key.part in LORA_PARTS and key.part is not Part.TOKENS
        if is_factor and known and key.module not in seen:
            seen.add(key.module)
            yield Violation(
                key.name, f"the config does not target {key.module}, so peft drops the tensor"
            )


@rule(
    "tensors-unimplied",
    severity=Severity.ERROR,
    title="The config declares every part of an adapted module",
    why="peft silently drops a magnitude without use_dora, or a bias without lora_bias, which "
    "leaves a different adapter.",
    fix="set use_dora, lora_bias or the variant's field to the value used in training",
    needs=["expected tensors"],
)
def unimplied(context: LintContext) -> Iterator[Violation]:
    """Find parts of a targeted module that the config does not declare."""
    for key in _unexpected(context):
        known = key.module in context.expected.targeted or key.part is Part.TOKENS
        if key.part in LORA_PARTS and known:
            field = _FIELDS.get(key.part)
            fix = f"set {field} in {CONFIG} to the value used in training" if field else ""
            message = f"the config declares no {key.part} for {key.module}"
            yield Violation(key.name, message, fix)


@rule(
    "tensors-missing",
    severity=Severity.ERROR,
    title="The file contains every tensor that the config implies",
    why="peft fills missing tensors with initial values and warns at most. These modules run as "
    "if they had never been trained.",
    fix="save the adapter again with all layers gathered, or correct the config to the one used "
    "in training",
    needs=["expected tensors"],
)
def missing(context: LintContext) -> Iterator[Violation]:
    """Find expected tensors that the file lacks."""
    promised = {bad.corrected for bad in context.bad_keys}
    lost: dict[str, list[ExpectedTensor]] = {}
    for name, tensor in context.expected.tensors.items():
        if not tensor.optional and name not in context.keys and name not in promised:
            lost.setdefault(tensor.module, []).append(tensor)
    for module, tensors in lost.items():
        parts = " and ".join(t.part for t in tensors)
        yield Violation(
            module, f"{parts} of {module} {'is' if len(tensors) == 1 else 'are'} missing"
        )


@rule(
    "tensors-shape",
    severity=Severity.ERROR,
    title="Every tensor has the shape that the rank and the base imply",
    why="peft raises an error for most wrong shapes, but only after it has loaded the base; it "
    "silently accepts a transposed square factor.",
    fix="set r or rank_pattern to the ranks in the file, or use the base from training",
    needs=["expected tensors"],
)
def shape(context: LintContext) -> Iterator[Violation]:
    """Find wrong shapes, and explain them."""
    for name, key in context.keys.items():
        expected = context.expected.tensors.get(name)
        actual = context.info(key).shape
        if expected and not _fits(actual, expected.shape):
            cause, fix = _shape_cause(actual, expected)
            wanted = "x".join("?" if n is None else str(n) for n in expected.shape)
            yield Violation(
                key.name,
                f"the shape is {'x'.join(map(str, actual)) or 'scalar'}, not {wanted}: {cause}",
                fix,
            )


@rule(
    "tensors-phi3-sizes",
    severity=Severity.ERROR,
    title="The modules' sizes fit one Phi-3",
    why="If qkv_proj reads a different width from the one that down_proj writes, no Phi-3 fits: "
    "one shard was saved instead of the whole tensors, or files were mixed.",
    fix="save the adapter from a process that has the complete tensors",
    needs=["expected tensors"],
)
def phi3_sizes(context: LintContext) -> Iterator[Violation]:
    """Compare the widths on which the factors agree. With a base, base-sizes does so instead."""
    if context.has("base"):
        return
    kinds = {m.leaf: m for m in context.expected.modules.values() if m.inputs or m.outputs}
    hidden = {
        **{n: m.inputs for n, m in kinds.items() if n in ("qkv_proj", "gate_up_proj", "lm_head")},
        **{n: m.outputs for n, m in kinds.items() if n in ("o_proj", "down_proj", "embed_tokens")},
    }
    known = {n: size for n, size in hidden.items() if size}
    if len(set(known.values())) > 1:
        shown = ", ".join(f"{n} {size}" for n, size in known.items())
        yield Violation(WEIGHTS, f"the modules disagree on the hidden size: {shown}")
    up, down = kinds.get("gate_up_proj"), kinds.get("down_proj")
    if up and down and up.outputs and down.inputs and up.outputs != 2 * down.inputs:
        message = (
            f"gate_up_proj has {up.outputs} outputs, not twice down_proj's {down.inputs} inputs"
        )
        yield Violation(WEIGHTS, message)


@rule(
    "tensors-dtype",
    severity=Severity.ERROR,
    title="Every tensor is stored in float32, bfloat16 or float16",
    why="Integers and 8-bit floats lose what was trained.",
    fix="save the adapter in float32, bfloat16 or float16",
    needs=["weights"],
)
def dtype(context: LintContext) -> Iterator[Violation]:
    """Find dtypes that no trainer writes."""
    for key in context.keys.values():
        found = context.info(key).dtype
        if found not in (*_PLAIN_DTYPES, "F64"):
            yield Violation(key.name, f"the dtype is {found}")


@rule(
    "tensors-float64",
    severity=Severity.WARNING,
    title="No tensor is stored in float64",
    why="peft loads it as float32, so the file is twice as large as necessary.",
    fix="save the adapter in float32",
    needs=["weights"],
)
def float64(context: LintContext) -> Iterator[Violation]:
    """Find float64 tensors."""
    doubles = [k.name for k in context.keys.values() if context.info(k).dtype == "F64"]
    if doubles:
        yield Violation(doubles[0], f"{len(doubles)} tensors are float64")


def _unexpected(context: LintContext) -> Iterator[TensorKey]:
    for name, key in context.keys.items():
        if name not in context.expected.tensors:
            yield key


def _nearest_fix(module: str, by_tail: Mapping[str, str]) -> str:
    leaf = module.rpartition(".")[2]
    if leaf in FUSED_OF:
        return f"convert it to {FUSED_OF[leaf]}, the fused projection of Phi-3: run {_FUSE}"
    if leaf in _TABLES:
        name = _TABLES[leaf]
        return (
            f"rename {module} to {name}, its name in the base, and list the adapted modules in "
            f"target_modules, with {name.rpartition('.')[2]}"
        )
    known = next((by_tail[t] for t in name_suffixes(module) if "." in t and t in by_tail), None)
    return f"rename {module} to {known}, its name in the base" if known else ""


def _fits(actual: tuple[int, ...], expected: Shape) -> bool:
    return len(actual) == len(expected) and all(
        (a > 0 if e is None else a == e) for a, e in zip(actual, expected, strict=True)
    )


def _shape_cause(actual: tuple[int, ...], expected: ExpectedTensor) -> tuple[str, str]:
    """Return the likely cause of a wrong shape, and its fix ("" for the rule's own fix)."""
    wanted = expected.shape
    if 0 in actual:
        return "it is an empty shard", "gather ZeRO-3's shards before saving (GatheredParameters)"
    if len(actual) != len(wanted):
        return "it is a flattened shard", "save under FSDP with FULL_STATE_DICT"
    if expected.part in FACTORS:
        at = 0 if expected.part in (Part.A, Part.EMBEDDING_A) else 1
        if actual[at] != wanted[at] == actual[1 - at]:
            return "its rank is on the other axis", (
                "transpose the tensor, or swap the names of A and B: "
                "A is (r, inputs), B is (outputs, r)"
            )
        if actual[at] != wanted[at]:
            return f"its rank is {actual[at]}, but the config sets {wanted[at]}", ""
    axis = 1 if expected.part is Part.EMBEDDING_A else 0
    is_table = expected.module.rpartition(".")[2] in TABLES
    if is_table and _differs_only_at(axis, actual, wanted):
        return _resized(actual[axis], wanted[axis]), _pass_resized(actual[axis])
    return "the module in the base has a different size", (
        "use the base from training, and save complete tensors, not one process's shard"
    )


def _resized(rows: int, wanted: int | None) -> str:
    return f"the vocabulary was resized to {rows} rows, and the base has {wanted}"


def _pass_resized(rows: int) -> str:
    return (
        f"pass the resized base: load the base, call resize_token_embeddings({rows}), and save it "
        "in a folder together with the adapter's tokenizer"
    )


def _differs_only_at(axis: int, actual: tuple[int, ...], wanted: Shape) -> bool:
    return all((a == w) is (n != axis) for n, (a, w) in enumerate(zip(actual, wanted, strict=True)))
