"""Fine-tune Phi-3 with LoRA, and decide with pytest whether the adapter may ship.

Importing the package loads nothing heavy: the public names are resolved on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi3_lora_qa.errors import Phi3LoraQAError
    from phi3_lora_qa.training import train

__version__ = "0.1.0"

_HOMES = {"train": "phi3_lora_qa.training", "Phi3LoraQAError": "phi3_lora_qa.errors"}

__all__ = ["Phi3LoraQAError", "__version__", "train"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
