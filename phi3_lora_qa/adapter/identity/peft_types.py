"""The kinds of adapters that peft 0.21.2 has, other than LoRA."""

from collections.abc import Mapping
from types import MappingProxyType

LORA = "LORA"

_PROMPT = "trained prompt vectors"
_ORTHOGONAL = "orthogonal rotations of the weights"

OTHER_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "PROMPT_TUNING": _PROMPT,
        "MULTITASK_PROMPT_TUNING": _PROMPT,
        "P_TUNING": _PROMPT,
        "PREFIX_TUNING": "trained prefixes of the key-value cache",
        "CPT": _PROMPT,
        "CARTRIDGE": "trained prefixes of the key-value cache",
        "ADAPTION_PROMPT": "LLaMA-Adapter's trained prompts",
        "ADALORA": "factors with a trained diagonal and rank",
        "ADAMSS": "AdaMSS's updates in subspaces",
        "BOFT": _ORTHOGONAL,
        "IA3": "trained scales of activations",
        "BEFT": "trained biases",
        "LILY": "factors shared between layers",
        "LOHA": "Hadamard products of factors",
        "LOKR": "Kronecker products",
        "OFT": _ORTHOGONAL,
        "POLY": "a routed mixture of LoRA modules",
        "LN_TUNING": "trained norms",
        "VERA": "trained vectors on random factors",
        "FROD": "FRoD's updates",
        "PVERA": "trained vectors on random factors",
        "FOURIERFT": "trained Fourier coefficients",
        "GLORA": "GLoRA's updates of weights and biases",
        "XLORA": "a router that mixes several LoRA adapters",
        "HRA": "Householder reflections",
        "VBLORA": "factors composed from a bank of vectors",
        "UNILORA": "factors projected from one vector",
        "MISS": "MiSS's shared matrices",
        "RANDLORA": "trained sums of random factors",
        "ROAD": "rotations of activations",
        "TRAINABLE_TOKENS": "trained rows of the embedding table",
        "HIRA": "Hadamard products with the weights",
        "SHIRA": "trained single weights",
        "C3A": "circular convolutions",
        "WAVEFT": "trained wavelet coefficients",
        "OSF": "updates of singular vectors",
        "DELORA": "normalised factors",
        "GRALORA": "factors of blocks of a weight",
        "TINYLORA": "a few trained numbers on fixed factors",
        "PSOFT": _ORTHOGONAL,
        "PEANUT": "PEANuT's small networks",
        "SHADOW": "a network next to the base",
        "SUPERTUNING": "SuperTuning's updates",
        "DEFT": "DEFT's updates",
    }
)
"""What an adapter of each other type consists of."""

APPROXIMATED = frozenset(
    {
        "C3A", "DELORA", "FOURIERFT", "GRALORA", "LOHA", "LOKR", "MISS", "PSOFT", "RANDLORA",
        "TINYLORA", "UNILORA", "VBLORA", "VERA", "WAVEFT",
    }
)  # fmt: skip
"""The types that peft.save_as_lora can write as LoRA, up to the error of the chosen rank."""
