"""Whether the fast engine works with the installed transformers: it runs a tiny model to find out.

The fast engine passes its own KV cache and attention function to a model. Both depend on parts of
transformers that are not documented.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.libraries import incompatible
from phi3_lora_qa.scoring.kv_cache import KVCache, Span, run_decoder
from phi3_lora_qa.setting_specs import CPU

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_ROWS = ((3, 1, 4, 1, 5), (2, 6, 5))
_TOLERANCE = 0.01
"""For states with a root mean square of 1: far above rounding, and below any wrong attention."""


@cache
def fast_engine_fault(model_class: Any, device: str = CPU) -> str:
    """Return why the fast engine cannot run models of a class; empty if it can.

    A tiny model of the class is run with the engine's KV cache and attention, and without them.

    Args:
        model_class: The class of the model to be scored, a ``PreTrainedModel``.
        device: The device that will score it.

    Returns:
        The library, its version, what failed, and versions that work.
    """
    import torch

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        try:
            model = model_class(_tiny_config(model_class)).eval()
            same = _states_agree(model.to(device))
        except Exception as error:  # a changed library may raise anything
            reason = f"{type(error).__name__}: {error}"
            fault = f"does not accept a custom KV cache and attention function ({reason})"
            return str(incompatible("transformers", fault))
    if not same:
        fault = "computes different results with a custom KV cache and attention function"
        return str(incompatible("transformers", fault))
    return ""


def _states_agree(model: "PreTrainedModel") -> bool:
    import torch

    decoder: Any = model.get_decoder()
    rows = [torch.tensor([row], device=model.device) for row in _ROWS]
    expected = [decoder(row).last_hidden_state[0] for row in rows]
    pairs = zip(_fast_states(model), expected, strict=True)
    return all(bool(((found - state).abs() <= _TOLERANCE).all()) for found, state in pairs)


def _tiny_config(model_class: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    # Weights so large that the attention dominates the result.
    return model_class.config_class(**sizes, **heads, **tokens, initializer_range=1.0)


def _fast_states(model: "PreTrainedModel") -> "list[Tensor]":
    """Read all but the last token of each row in one pass, and the last ones in a decoding step."""
    import torch

    kv_cache = KVCache([len(row) for row in _ROWS])
    spans = [Span(row=n, start=0, tokens=len(row) - 1) for n, row in enumerate(_ROWS)]
    positions = [torch.arange(span.end) for span in spans]
    kv_cache.set_spans(spans)
    ids = torch.tensor([[token for row in _ROWS for token in row[:-1]]])
    first = run_decoder(model, kv_cache, ids, torch.cat(positions)[None])
    kv_cache.set_step([span.end for span in spans])
    ends = torch.tensor([[span.end] for span in spans])
    last = run_decoder(model, kv_cache, torch.tensor([row[-1:] for row in _ROWS]), ends)
    states = first[0].split([span.tokens for span in spans])
    return [torch.cat(both) for both in zip(states, last, strict=True)]
