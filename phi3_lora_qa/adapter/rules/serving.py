"""Family export: what other programs reject, or silently leave out.

None of these findings means that the adapter is bad; they are notes for users who serve it with
another program. A project that does so can turn its notes into errors (``lint_levels``).
Sources: vLLM, vllm/lora/peft_helper.py; llama.cpp, convert_lora_to_gguf.py and its scale
alpha / rank at run time (src/llama-adapter.h); peft 0.21.2, tuners/lora/layer.py.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.expected_tensors import TABLES
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation
from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.tensor_names import FACTORS, Part

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's --max-lora-rank accepts (vllm/config/lora.py; later versions add 1)."""

LARGEST_VLLM_RANK = VLLM_RANKS[-1]
DEFAULT_VLLM_RANK = 16


@rule(
    "export-merge",
    severity=Severity.INFO,
    title="The adapter can be merged into the base",
    why="peft raises an error if you merge the adapter, so it can only be served unmerged.",
    fix="serve it unmerged with peft, or train without the field",
    needs=["config"],
)
def merge(context: LintContext) -> Iterator[Violation]:
    """Find adapters that peft cannot merge."""
    if reason := context.config.merge_refusal:
        yield Violation(CONFIG, f"peft cannot merge the adapter: {reason}")


@rule(
    "export-vllm",
    severity=Severity.INFO,
    title="vLLM accepts the adapter",
    why="vLLM rejects an adapter that has more than plain factors for linear layers.",
    fix="merge the adapter and serve the merged model",
    needs=["expected tensors"],
)
def vllm(context: LintContext) -> Iterator[Violation]:
    """Find what vLLM rejects."""
    config = context.config
    for field in _unsupported_fields(config):
        yield Violation(FieldOf(CONFIG, field), f"vLLM rejects an adapter with {field}")
    for module in context.expected.targeted.values():
        if module.leaf in TABLES:
            yield Violation(
                FieldOf(CONFIG, "target_modules"),
                f"vLLM does not support factors for {module.leaf}",
            )
    largest = max(map(context.matching.rank, context.expected.targeted), default=0)
    if largest > LARGEST_VLLM_RANK:
        yield Violation(
            FieldOf(CONFIG, "r"),
            f"the rank is {largest}, but vLLM supports ranks up to {LARGEST_VLLM_RANK}",
        )
    elif largest > DEFAULT_VLLM_RANK:
        enough = next(rank for rank in VLLM_RANKS if rank >= largest)
        fix = f"start vLLM with --max-lora-rank {enough} or more"
        yield Violation(
            FieldOf(CONFIG, "r"),
            f"the rank is {largest}, but vLLM's default limit is {DEFAULT_VLLM_RANK}",
            fix,
        )


@rule(
    "export-llama-cpp",
    severity=Severity.INFO,
    title="llama.cpp's converter accepts the adapter",
    why="convert_lora_to_gguf.py stops at any tensor that is not a factor, except norms.",
    fix="merge the adapter and convert the merged model",
    needs=["weights"],
)
def llama_cpp(context: LintContext) -> Iterator[Violation]:
    """Find tensors at which the converter stops."""
    others = [
        key.name
        for key in context.keys.values()
        if key.part not in (*FACTORS, Part.BASE_WEIGHT) and "norm" not in key.module
    ]
    if others:
        yield Violation(
            others[0], f"{len(others)} tensors are not factors, and the converter rejects them"
        )


@rule(
    "export-tied-tables",
    severity=Severity.INFO,
    title="Merging keeps the base's two tables tied",
    why="The base uses one table for input and output. An adapter that changes one of them, or "
    "each separately, unties them; a merged model that is saved as tied loses one of the two.",
    fix="save the merged model with tie_word_embeddings set to false",
    needs=["expected tensors", "base"],
)
def tied_tables(context: LintContext) -> Iterator[Violation]:
    """Find adapters that change one table of a base that ties them."""
    config = context.config
    if not context.base.is_tied or config.ensure_weight_tying:
        return
    implied = context.expected
    changed = [m for m in (*implied.targeted, *implied.saved) if m.endswith(TABLES)]
    if changed:
        yield Violation(
            FieldOf(CONFIG, "target_modules"),
            f"the adapter changes {', '.join(changed)} separately",
        )


@rule(
    "export-scaling",
    severity=Severity.INFO,
    title="Other programs compute the same scaling as peft",
    why="vLLM uses lora_alpha and r for every module and ignores patterns; llama.cpp divides "
    "lora_alpha by the rank and ignores use_rslora and alpha_pattern. Both do so silently, and "
    "the adapter acts too strongly or too weakly.",
    fix="merge the adapter, or choose lora_alpha so that alpha / r is the scaling of every module",
    needs=["expected tensors"],
)
def scaling(context: LintContext) -> Iterator[Violation]:
    """Compare peft's scaling of each module with what the two programs would use."""
    config, matching = context.config, context.matching
    modules = list(context.expected.targeted)
    programs = {
        "vLLM": {m: _vllm_scaling(config) for m in modules},
        "llama.cpp": {m: config.lora_alpha / matching.rank(m) for m in modules},
    }
    for program, scalings in programs.items():
        other = [
            module
            for module in modules
            if abs(matching.scaling(module) - scalings[module]) > 1e-6 * abs(scalings[module])
        ]
        if other:
            yield Violation(
                WEIGHTS,
                f"{program} scales {len(other)} of {len(modules)} modules differently: {other[0]} "
                f"by {scalings[other[0]]:g} instead of {matching.scaling(other[0]):g}",
            )


def _vllm_scaling(config: LoraAdapterConfig) -> float:
    return config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)


def _unsupported_fields(config: LoraAdapterConfig) -> list[str]:
    """Return the fields that are set and need more than plain factors."""
    fields = (
        "use_dora", "modules_to_save", "lora_bias", "trainable_token_indices", "use_bdlora",
        "velora_config", "monteclora_config", "target_parameters",
    )  # fmt: skip
    return [field for field in fields if getattr(config, field)]
