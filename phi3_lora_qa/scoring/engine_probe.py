"""Whether the installed transformers lets the scoring engine run its models: tried on a tiny one.

The engine gives a model keys and values of its own and an attention that reads them. Both rest on
parts of transformers that no documentation promises.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.libraries import incompatible
from phi3_lora_qa.scoring.kv_cache import KeyValues, Span, run_decoder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_ROWS = ((3, 1, 4, 1, 5), (2, 6, 5))
_WHAT = "keys, values and an attention that are not its own"
_FAR = 0.01
"""Of states whose root mean square is 1: far beyond rounding, and below any wrong attention."""


@cache
def require_engine_fits(kind: Any) -> None:
    """Run a tiny model of the same class by the engine's means, and as transformers itself does.

    Args:
        kind: The class of the model that is to be scored, a ``PreTrainedModel``.

    Raises:
        IncompatibleLibraryError: It cannot be run so, or gives something else.
    """
    import torch

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        try:
            near = _gives_the_same(kind(_tiny(kind)).eval())
        except Exception as error:  # whatever a changed library raises
            why = f"{type(error).__name__}: {error}"
            raise incompatible("transformers", f"does not take {_WHAT} ({why})") from error
    if not near:
        raise incompatible("transformers", f"gives other results with {_WHAT}")


def _gives_the_same(model: "PreTrainedModel") -> bool:
    import torch

    plain: Any = model.get_decoder()
    expected = [plain(torch.tensor([row])).last_hidden_state[0] for row in _ROWS]
    pairs = zip(_by_the_engine(model), expected, strict=True)
    return all(bool(((found - state).abs() <= _FAR).all()) for found, state in pairs)


def _tiny(kind: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    # Weights so large that what a token attends to decides what comes out.
    return kind.config_class(**sizes, **heads, **tokens, initializer_range=1.0)


def _by_the_engine(model: "PreTrainedModel") -> "list[Tensor]":
    """Read all but each row's last token in one pass, and the last ones in a step."""
    import torch

    store = KeyValues([len(row) for row in _ROWS])
    spans = [Span(row=n, start=0, tokens=len(row) - 1) for n, row in enumerate(_ROWS)]
    positions = [torch.arange(span.end) for span in spans]
    store.aim(spans)
    ids = torch.tensor([[token for row in _ROWS for token in row[:-1]]])
    first = run_decoder(model, store, ids, torch.cat(positions)[None])
    store.aim_step([span.end for span in spans])
    ends = torch.tensor([[span.end] for span in spans])
    last = run_decoder(model, store, torch.tensor([row[-1:] for row in _ROWS]), ends)
    read = first[0].split([span.tokens for span in spans])
    return [torch.cat(both) for both in zip(read, last, strict=True)]
