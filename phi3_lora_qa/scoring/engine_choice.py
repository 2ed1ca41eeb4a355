"""Which engine scores a model: the fast one, or plain transformers if that does not work."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.architecture import ARCHITECTURES
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.scoring.engine_probe import fast_engine_fault
from phi3_lora_qa.setting_specs import ENGINES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAST, PLAIN = ENGINES


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """The engine that scores: ``fast`` or ``plain``.

    ``fallback`` says why the plain engine replaces the fast one: the library, its version, and what
    failed. It is empty if the requested engine is used.
    """

    name: str
    fallback: str = ""


def choose_engine(requested: str, model: "PreTrainedModel") -> EngineChoice:
    """Return the requested engine, or the plain one if the fast one does not work.

    Args:
        requested: ``fast`` or ``plain``.
        model: A causal language model without PEFT's outer wrapper. Its class, device and
            quantization matter.

    Raises:
        InputError: There is no engine of this name.
    """
    if requested not in ENGINES:
        raise InputError(
            f"the engine is unknown: {escape(repr(requested), 40)}; use one of {', '.join(ENGINES)}"
        )
    if requested == FAST and (fault := _fault(model)):
        return EngineChoice(name=PLAIN, fallback=fault)
    return EngineChoice(name=requested)


def _fault(model: Any) -> str:
    """Return why the fast engine cannot score a model; empty if it can."""
    model_class: Any = type(model)
    if getattr(model, "is_loaded_in_8bit", False):
        # bitsandbytes computes in float16 each column in which any row of the batch is large.
        return "products in 8 bits depend on all rows of a batch, so items are scored one by one"
    known = {a.class_name: a for a in ARCHITECTURES.values()}.get(model_class.__name__)
    if known and not known.is_scored_fast:
        return f"the fast engine does not support {known.name}"
    return fast_engine_fault(model_class, str(model.device))
