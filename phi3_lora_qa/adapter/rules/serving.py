"""Family export: what other programs will refuse, or leave out without a word.

None of these says that the adapter is bad: they are notes for those who serve it elsewhere. A
project that serves with one of these programs can make errors of its notes (``lint_levels``).
Sources: vLLM, vllm/lora/peft_helper.py; llama.cpp, convert_lora_to_gguf.py and its scale
alpha / rank at run time (src/llama-adapter.h); peft 0.21.2, tuners/lora/layer.py.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.expected_tensors import TABLES
from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.tensor_names import FACTORS, Part

LARGEST_VLLM_RANK = 512
DEFAULT_VLLM_RANK = 16


@rule(
    "export-merge",
    severity=Severity.INFO,
    title="The adapter can be merged into the base",
    why="peft raises when it is asked to merge it, so every way of serving that merges is closed.",
    fix="serve it unmerged with peft, or train without the field",
    needs=["config"],
)
def merge(context: LintContext) -> Iterator[Violation]:
    """Find adapters that peft cannot merge."""
    if reason := context.config.merge_refusal:
        yield Violation(CONFIG, f"peft cannot merge it: {reason}")


@rule(
    "export-vllm",
    severity=Severity.INFO,
    title="vLLM takes the adapter",
    why="vLLM refuses an adapter with anything but plain factors for linear layers.",
    fix="merge the adapter and serve the merged model",
    needs=["implied"],
)
def vllm(context: LintContext) -> Iterator[Violation]:
    """Find what vLLM raises on."""
    config = context.config
    for field in _beside_plain(config):
        yield Violation(f"{CONFIG}: {field}", f"vLLM refuses an adapter with {field}")
    for module in context.implied.targeted.values():
        if module.leaf in TABLES:
            yield Violation(f"{CONFIG}: target_modules", f"vLLM takes no factors for {module.leaf}")
    largest = max(map(context.matching.rank, context.implied.targeted), default=0)
    if largest > LARGEST_VLLM_RANK:
        yield Violation(
            f"{CONFIG}: r", f"vLLM takes ranks up to {LARGEST_VLLM_RANK}, not {largest}"
        )
    elif largest > DEFAULT_VLLM_RANK:
        fix = f"start vLLM with --max-lora-rank {largest} or more"
        yield Violation(
            f"{CONFIG}: r", f"vLLM takes ranks above {DEFAULT_VLLM_RANK} only if told", fix
        )


@rule(
    "export-llama-cpp",
    severity=Severity.INFO,
    title="llama.cpp's converter takes the adapter",
    why="convert_lora_to_gguf.py stops at a tensor that is no factor, norms excepted.",
    fix="merge the adapter and convert the merged model",
    needs=["weights"],
)
def llama_cpp(context: LintContext) -> Iterator[Violation]:
    """Find tensors that the converter exits on."""
    others = [
        key.name
        for key in context.keys.values()
        if key.part not in (*FACTORS, Part.BASE_WEIGHT) and "norm" not in key.module
    ]
    if others:
        yield Violation(
            others[0], f"{len(others)} tensors are no factors, which the converter refuses"
        )


@rule(
    "export-tied-tables",
    severity=Severity.INFO,
    title="Merging leaves the base's two tables tied",
    why="The base uses one table for its input and its output. An adapter that changes one of "
    "them, or each by itself, unties them: a merged model that says it is tied loses one of both.",
    fix="save the merged model with tie_word_embeddings set to false",
    needs=["implied", "base"],
)
def tied_tables(context: LintContext) -> Iterator[Violation]:
    """Find adapters of one table of a base that ties them."""
    config = context.config
    if not context.base.config.get("tie_word_embeddings") or config.ensure_weight_tying:
        return
    implied = context.implied
    changed = [m for m in (*implied.targeted, *implied.saved) if m.endswith(TABLES)]
    if changed:
        yield Violation(f"{CONFIG}: target_modules", f"it changes {', '.join(changed)} by itself")


@rule(
    "export-scaling",
    severity=Severity.INFO,
    title="Other programs compute the scaling that peft computes",
    why="vLLM takes lora_alpha and r for every module and knows no patterns; llama.cpp divides "
    "lora_alpha by the rank, whatever use_rslora and alpha_pattern say. Neither says a word, and "
    "the adapter acts too strongly or too weakly.",
    fix="merge the adapter, or write lora_alpha so that alpha / r is the scaling of every module",
    needs=["implied"],
)
def scaling(context: LintContext) -> Iterator[Violation]:
    """Compare peft's scaling of each module with what the two programs would take."""
    config, matching = context.config, context.matching
    modules = list(context.implied.targeted)
    programs = {
        "vLLM": {m: _vllm_scaling(config) for m in modules},
        "llama.cpp": {m: config.lora_alpha / matching.rank(m) for m in modules},
    }
    for program, factors in programs.items():
        other = [
            m for m in modules if abs(matching.scaling(m) - factors[m]) > 1e-6 * abs(factors[m])
        ]
        if other:
            yield Violation(
                WEIGHTS,
                f"{program} scales {len(other)} of {len(modules)} modules otherwise: {other[0]} by "
                f"{factors[other[0]]:g} in place of {matching.scaling(other[0]):g}",
            )


def _vllm_scaling(config: LoraAdapterConfig) -> float:
    return config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)


def _beside_plain(config: LoraAdapterConfig) -> list[str]:
    """The fields that ask for more than factors."""
    fields = (
        "use_dora", "modules_to_save", "lora_bias", "trainable_token_indices", "use_bdlora",
        "velora_config", "monteclora_config", "target_parameters",
    )  # fmt: skip
    return [field for field in fields if getattr(config, field)]
