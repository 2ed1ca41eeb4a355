"""PEFT adapter folders as lists of modules with their factors, read and written exactly.

Only plain LoRA is supported; every feature that a conversion would lose is rejected by name.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.adapted_modules import ranks_in_file
from phi3_lora_qa.adapter.base_modules import BaseModule
from phi3_lora_qa.adapter.config import LoraAdapterConfig, read_config
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import BadKey, Part, parse_keys, tensor_name
from phi3_lora_qa.conversion.read_tensors import read_folder_tensors
from phi3_lora_qa.errors import AdapterError, InputError, escape
from phi3_lora_qa.lora.scaling import alpha_for

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "modules_to_save": (),
    "target_parameters": (),
    "trainable_token_indices": {},
    "use_bdlora": None,
    "velora_config": 0,
    "monteclora_config": 0,
    "fan_in_fan_out": False,
}


@dataclass(frozen=True, kw_only=True)
class PeftModule:
    """One adapted module, in PEFT's layout.

    Attributes:
        name: The module's name in the base.
        A: Tensor (r, in), (r, num) for an embedding, or (r, in, k, k) for a convolution.
        B: Tensor (out, r), (dim, r), or (out, r, 1, 1), of the dtype of A.
        scaling: s of the delta s · B·A.
        is_embedding: Whether the factors are those of an embedding.
        magnitude: DoRA's magnitudes, a tensor (out,); None without DoRA.

    Example:
        >>> import torch
        >>> A, B = torch.ones(2, 4), torch.ones(3, 2)
        >>> module = PeftModule(name="layers.0.o_proj", A=A, B=B, scaling=1.0)
        >>> module.rank, module.leaf
        (2, 'o_proj')
    """

    name: str
    A: "Tensor"
    B: "Tensor"
    scaling: float
    is_embedding: bool = False
    magnitude: "Tensor | None" = None

    @property
    def rank(self) -> int:
        """r, the number of rows of A."""
        return int(self.A.shape[0])

    @property
    def leaf(self) -> str:
        """The last part of the name, such as ``qkv_proj``."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class PeftAdapter:
    """A whole adapter of factors, and with DoRA of magnitudes.

    Attributes:
        modules: The adapted modules.
        base: base_model_name_or_path of its config; "" if there is none.
        dropout: lora_dropout.

    Example:
        >>> PeftAdapter(modules=(), base="microsoft/Phi-3-mini-4k-instruct").dropout
        0.0
    """

    modules: tuple[PeftModule, ...]
    base: str
    dropout: float = 0.0


def read_adapter(path: Path) -> PeftAdapter:
    """Read an adapter folder, which may be untrusted.

    Args:
        path: The folder.

    Returns:
        The adapter; its tensors are on the CPU, in the stored dtype.

    Raises:
        AdapterError: The folder cannot be read safely, a tensor is missing or unexpected, or the
            adapter uses a feature that only PEFT supports, such as DoRA.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> A, B = torch.ones(2, 4), torch.ones(3, 2)
        >>> module = PeftModule(name="layers.0.o_proj", A=A, B=B, scaling=1.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_adapter(Path(folder), PeftAdapter(modules=(module,), base=""), [module.name])
        ...     [found.rank for found in read_adapter(Path(folder)).modules]
        [2]
    """
    folder = AdapterFolder.open(path)
    config = read_config(folder)
    _require_plain(path, config)
    tensors = read_folder_tensors(folder, WEIGHTS)
    keys, bad = parse_keys(tensors)
    if bad:
        raise _misplaced_tensor(bad[0])
    matching = Matching(config, ranks_in_file(keys.values(), tensors))
    parts: dict[str, dict[Part, Tensor]] = {}
    for key in keys.values():
        parts.setdefault(key.module, {})[key.part] = tensors[key.name]
    modules = tuple(_module(name, found, matching) for name, found in parts.items())
    if not modules:
        raise AdapterError(f"{WEIGHTS} contains no factors; save the adapter again")
    return PeftAdapter(
        modules=modules,
        base=config.base_model_name_or_path or "",
        dropout=config.lora_dropout,
    )


def write_adapter(folder: Path, adapter: PeftAdapter, layers: Iterable[str]) -> None:
    """Write config and weights into an existing folder.

    Args:
        folder: The folder.
        adapter: The adapter.
        layers: The names of all layers of the base, so that a short name in target_modules matches
            only the adapted layers.

    Raises:
        InputError: No lora_alpha gives a module's scaling exactly.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> A, B = torch.ones(2, 4), torch.ones(3, 2)
        >>> module = PeftModule(name="layers.0.o_proj", A=A, B=B, scaling=1.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_adapter(Path(folder), PeftAdapter(modules=(module,), base=""), [module.name])
        ...     sorted(path.name for path in Path(folder).iterdir() if path.suffix != ".md")
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    alphas = {m.name: exact_alpha(m.scaling, m.rank, m.name) for m in adapter.modules}
    ranks = {m.name: m.rank for m in adapter.modules}
    rank, rank_pattern = _common_value(ranks)
    alpha, alpha_pattern = _common_value(alphas)
    config = LoraConfig(
        base_model_name_or_path=adapter.base or None,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=adapter.dropout,
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        use_dora=any(module.magnitude is not None for module in adapter.modules),
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    # Assigned afterwards, because PEFT converts a list to a set, whose order changes between runs.
    config.target_modules = _shortest_target_names(list(ranks), layers)
    config.save_pretrained(str(folder))
    tensors = {}
    for module in adapter.modules:
        embedding = module.is_embedding
        part_a = Part.EMBEDDING_A if embedding else Part.A
        part_b = Part.EMBEDDING_B if embedding else Part.B
        tensors[tensor_name(module.name, part_a)] = module.A.detach().cpu().contiguous()
        tensors[tensor_name(module.name, part_b)] = module.B.detach().cpu().contiguous()
        if module.magnitude is not None:
            magnitude = module.magnitude.detach().cpu().contiguous()
            tensors[tensor_name(module.name, Part.MAGNITUDE)] = magnitude
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    # safetensors restricts the file to its owner; give it the permissions of the config.
    (folder / WEIGHTS).chmod((folder / "adapter_config.json").stat().st_mode)


def require_fit(adapter: PeftAdapter, base: Mapping[str, BaseModule]) -> None:
    """Raise InputError unless the factors of every module fit the base.

    Args:
        adapter: The adapter; its factors must be 2-D.
        base: The modules of the base by name.

    Raises:
        InputError: A module is missing from the base, or its size differs.

    Example:
        >>> require_fit(PeftAdapter(modules=(), base=""), {})
    """
    for module in adapter.modules:
        at = base.get(module.name)
        shape = (module.B.shape[0], module.A.shape[1])
        if at is None or shape != (at.outputs, at.inputs):
            there = "no such layer" if at is None else f"({at.outputs}, {at.inputs})"
            raise InputError(
                f"the factors of {escape(module.name, 160)} do not fit the base: they are for "
                f"{shape}, the base has {there}; pass the base that the adapter was trained on"
            )


def exact_alpha(scaling: float, rank: int, name: str) -> float:
    """Return the alpha with alpha / rank == scaling exactly, as an integer if possible.

    Raises:
        InputError: No such alpha exists.
    """
    whole = round(scaling * rank)
    if whole / rank == scaling:
        return whole
    try:
        return alpha_for(scaling, rank)
    except InputError as error:
        raise InputError(
            f"{escape(name, 120)} cannot be converted exactly: its rank is now {rank}, and no "
            f"alpha divided by {rank} is exactly {scaling!r}; train with an integer alpha"
        ) from error


def _require_plain(path: Path, config: LoraAdapterConfig) -> None:
    for name, plain in _PLAIN.items():
        if getattr(config, name) != plain:
            raise AdapterError(
                f"cannot convert the adapter {escape(str(path), 200)}: it sets {name}, and a "
                "conversion supports only plain LoRA factors; convert an adapter without it"
            )


def _module(name: str, found: "dict[Part, Tensor]", matching: Matching) -> PeftModule:
    embedding = Part.EMBEDDING_A in found
    expected = {Part.EMBEDDING_A, Part.EMBEDDING_B} if embedding else {Part.A, Part.B}
    shown = escape(name, 120)
    if set(found) != expected:
        part = sorted(set(found) ^ expected)[0]
        verb = "has" if part in found else "lacks"
        raise AdapterError(
            f"{shown} {verb} {part}, and a conversion needs exactly two factors for each module; "
            "save the adapter with save_embedding_layers=False and without other variants"
        )
    a, b = (found[part] for part in sorted(expected))
    rank = matching.rank(name)
    shapes_fit = a.ndim == b.ndim and a.ndim in (2, 4) and a.shape[0] == b.shape[1] == rank
    if not shapes_fit or a.dtype != b.dtype or not a.is_floating_point():
        raise AdapterError(
            f"the factors of {shown} do not fit the rank in the config: {tuple(a.shape)} of "
            f"{a.dtype} and {tuple(b.shape)} of {b.dtype}, rank {rank}; save the adapter again"
        )
    return PeftModule(name=name, A=a, B=b, scaling=matching.scaling(name), is_embedding=embedding)


def _misplaced_tensor(key: BadKey) -> AdapterError:
    return AdapterError(
        f"{WEIGHTS}: unexpected tensor {escape(key.name, 160)}: {escape(key.cause, 120)}; "
        f"{escape(key.fix, 200)}"
    )


def _common_value(values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the most common value, and a pattern for each module with a different value.

    A module's last name is the pattern for all modules of that name if they agree.
    """
    common = Counter(values.values()).most_common(1)[0][0]
    leaves: dict[str, set[Any]] = {}
    for name, value in values.items():
        leaves.setdefault(name.rpartition(".")[2], set()).add(value)
    pattern = {}
    for name, value in values.items():
        leaf = name.rpartition(".")[2]
        if value != common:
            pattern[leaf if len(leaves[leaf]) == 1 else name] = value
    return common, pattern


def _shortest_target_names(adapted: Sequence[str], layers: Iterable[str]) -> list[str]:
    """Return the shortest list of names that matches these modules and no others."""
    others = {name.rpartition(".")[2] for name in set(layers) - set(adapted)}
    leaves = {name.rpartition(".")[2] for name in adapted}
    alone = leaves - others
    return sorted(alone | {name for name in adapted if name.rpartition(".")[2] not in alone})
