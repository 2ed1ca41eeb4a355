"""Makes an adapter one of its base's modules: split projections become fused ones, exactly."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.base_modules import ModuleKind
from phi3_lora_qa.conversion.equal_ranks import equalize_ranks, has_exact_alphas
from phi3_lora_qa.conversion.fused_blocks import phi3_layouts
from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, require_fit
from phi3_lora_qa.conversion.split_to_fused import fuse_adapter


def fit_to_base(adapter: PeftAdapter, base: BaseFiles) -> PeftAdapter:
    """Fuse the factors of projections that the base has fused, and check that all factors fit.

    Args:
        adapter: The adapter, with modules named as in the base or in its split layout.
        base: The base.

    Returns:
        The adapter of the base's own modules, with the same deltas.

    Raises:
        InputError: A module is missing from the base, has another size, or cannot be fused exactly.

    Example:
        >>> import torch
        >>> from phi3_lora_qa.conversion.peft_adapter import PeftModule
        >>> from phi3_lora_qa.models.registry import bundled
        >>> base = BaseFiles.open(bundled("tiny/base"))
        >>> name = "model.layers.0.mlp.up_proj"
        >>> inputs = base.modules["model.layers.0.mlp.gate_up_proj"].inputs
        >>> A, B = torch.ones(2, inputs), torch.ones(256, 2)
        >>> up = PeftModule(name=name, A=A, B=B, scaling=1.0)
        >>> fit_to_base(PeftAdapter(modules=(up,), base=""), base).modules[0].name
        'model.layers.0.mlp.gate_up_proj'
    """
    layouts = phi3_layouts(base.config)
    parts = {block.name for layout in layouts.values() for block in layout}
    is_split = any(module.leaf in parts for module in adapter.modules)
    if is_split:
        adapter = fuse_adapter(adapter, layouts)
    if is_split or not has_exact_alphas(adapter):
        adapter = equalize_ranks(adapter)
    require_fit(adapter, base.modules)
    return adapter


def adaptable_names(base: BaseFiles) -> Iterator[str]:
    """Yield the names of the base's linear modules, and of the parts of its fused ones.

    Args:
        base: The base.

    Yields:
        The names, such as ``model.layers.0.self_attn.qkv_proj`` and ``….q_proj``.

    Example:
        >>> from phi3_lora_qa.models.registry import bundled
        >>> names = set(adaptable_names(BaseFiles.open(bundled("tiny/base"))))
        >>> sorted(name for name in names if name.startswith("model.layers.0.mlp."))[:2]
        ['model.layers.0.mlp.down_proj', 'model.layers.0.mlp.gate_proj']
    """
    layouts = phi3_layouts(base.config)
    for name, module in base.modules.items():
        if module.kind is not ModuleKind.LINEAR:
            continue
        yield name
        parent = name.rpartition(".")[0]
        for block in layouts.get(module.leaf, ()):
            yield f"{parent}.{block.name}"
