"""Fine-tune Phi-3 with LoRA, and check with pytest that the adapter is safe to ship.

Importing the package loads nothing heavy: the public names are resolved on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.lint_report import LintReport
    from phi3_lora_qa.errors import (
        AdapterError,
        BaseModelError,
        DataError,
        IncompatibleLibraryError,
        InputError,
        MachineError,
        MissingDependencyError,
        Phi3LoraQAError,
    )
    from phi3_lora_qa.lint_adapter import lint_adapter as lint
    from phi3_lora_qa.record import RunRecord, Verdict, load_record
    from phi3_lora_qa.run_gate import gate_adapter
    from phi3_lora_qa.training import TrainResult, train

__version__ = "0.1.0"

_HOMES = {
    "AdapterError": "errors",
    "BaseModelError": "errors",
    "DataError": "errors",
    "IncompatibleLibraryError": "errors",
    "InputError": "errors",
    "LintReport": "adapter.lint_report",
    "MachineError": "errors",
    "MissingDependencyError": "errors",
    "Phi3LoraQAError": "errors",
    "RunRecord": "record",
    "TrainResult": "training",
    "Verdict": "record",
    "gate_adapter": "run_gate",
    "lint": "lint_adapter",
    "load_record": "record",
    "train": "training",
}
"""The module of each public name, below this package."""

_OTHER_NAMES = {"lint": "lint_adapter"}
"""Names that differ in their module."""

__all__ = [
    "AdapterError",
    "BaseModelError",
    "DataError",
    "IncompatibleLibraryError",
    "InputError",
    "LintReport",
    "MachineError",
    "MissingDependencyError",
    "Phi3LoraQAError",
    "RunRecord",
    "TrainResult",
    "Verdict",
    "__version__",
    "gate_adapter",
    "lint",
    "load_record",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        module = import_module(f"{__name__}.{_HOMES[name]}")
        return getattr(module, _OTHER_NAMES.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
