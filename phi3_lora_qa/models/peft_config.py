"""Read an adapter's config with PEFT itself, and reject settings that would rewrite the base."""

from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.config import read_raw_config
from phi3_lora_qa.adapter.config_other_fields import check_other_fields
from phi3_lora_qa.adapter.config_problem import ProblemKind
from phi3_lora_qa.adapter.config_schema import FIELDS, SAFE_INIT
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.errors import AdapterError, IncompatibleLibraryError, escape
from phi3_lora_qa.libraries import is_older
from phi3_lora_qa.models.peft_config_patterns import replace_unmatched_patterns

if TYPE_CHECKING:
    from peft import LoraConfig

# These do not change the base; pissa, olora, corda, loftq and lora_ga subtract from its weights.
_SAFE_INITS = (None, *SAFE_INIT)
_REWRITING_FIELDS = ("layer_replication", "megatron_config", "arrow_config")


def read_lora_config(folder: Path) -> "LoraConfig":
    """Read an adapter's config with PEFT itself.

    A pattern that only Python's `re` can match is replaced by the names of the modules.

    Raises:
        AdapterError: It is not a LoRA for a causal language model, or would rewrite the base.
    """
    from peft import LoraConfig, PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise AdapterError(
            f"the adapter {folder} is not a LoRA adapter: its type is "
            f"{escape(str(config.peft_type), 40)}; pass a LoRA adapter"
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise AdapterError(
            f"the adapter {folder} is for another task: {escape(str(config.task_type), 40)}; "
            "pass one that was trained with task_type CAUSAL_LM"
        )
    if config.init_lora_weights not in _SAFE_INITS:
        raise AdapterError(
            f"the adapter {folder} would rewrite the base when it is loaded: it was initialized "
            f"with {escape(repr(config.init_lora_weights), 40)}; convert it to plain LoRA when "
            "saving, with path_initial_model_for_weight_conversion"
        )
    for name in _REWRITING_FIELDS:
        if getattr(config, name, None):
            raise AdapterError(
                f"the adapter {folder} would rebuild the base when it is loaded: it sets {name}; "
                f"train it without {name}"
            )
    _require_known_fields(folder, config)
    replace_unmatched_patterns(config, AdapterFolder.open(folder))
    config.inference_mode = True
    if samples := getattr(config, "monteclora_config", None):  # since peft 0.21
        # Samples are drawn when a layer is created, and used only in training.
        samples.buffer_size = 1
    return config


def _require_known_fields(folder: Path, config: "LoraConfig") -> None:
    """Reject fields that the installed PEFT does not know: it would ignore their effect."""
    values = read_raw_config(AdapterFolder.open(folder))
    known = {field.name for field in fields(config)}
    unknown = sorted(name for name in FIELDS if values.get(name) and name not in known)
    for problem in check_other_fields(values):
        if problem.kind is ProblemKind.REFUSED and problem.field not in known:
            raise AdapterError(f"the adapter {folder}: {escape(problem.message, 300)}", problem.fix)
        if problem.kind is ProblemKind.UNKNOWN:
            unknown.append(problem.field)
    if config.init_lora_weights == "mica" and is_older("peft", "0.20"):
        unknown.append("init_lora_weights to mica")
    if unknown:
        raise IncompatibleLibraryError(
            f"peft {version('peft')} does not support a field of the adapter {folder}: "
            f"{escape(unknown[0], 80)}; install a newer one: pip install --upgrade peft"
        )
