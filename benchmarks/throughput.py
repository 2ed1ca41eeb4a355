"""How near reading and decoding come to the matrix products that they are made of.

Usage: python benchmarks/throughput.py [--base smollm2] [--tokens 2048] [--rows 8 32 64]

The limit is measured, not looked up: all weight matrices of the model, each multiplied once with
as many rows as the pass has (reading: the tokens; decoding: the rows), and nothing else done. The
language-model head is in it where the pass applies it. One process, the medians of several turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.scoring.batch_engine import PREFILL_TOKENS
from phi3_lora_qa.scoring.kv_cache import KVCache, Span, run_decoder
from phi3_lora_qa.scoring.prepacked_linear import prepack_linear_layers

TURNS = 5
PROMPT = 128


def seconds(work: Callable[[], object]) -> float:
    """Return the median wall time of some turns, the first left out."""
    work()
    found = []
    for _ in range(TURNS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def products(model: Any, rows: int, head: bool) -> Callable[[], object]:
    """Return what multiplies every weight matrix once with so many rows."""
    import torch

    last = model.get_output_embeddings()
    layers = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and (head or module is not last)
    ]
    sizes = {layer.in_features for layer in layers}
    inputs = {size: torch.randn(rows, size, dtype=model.dtype) for size in sizes}
    return lambda: [layer(inputs[layer.in_features]) for layer in layers]


class Passes:
    """The passes of the scoring engine over one model, on drawn tokens."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.head = model.get_output_embeddings()

    def read(self, rows: int) -> KVCache:
        """Read so many prompts one behind the other, in passes as large as scoring's."""
        import torch

        store, size = KVCache([PROMPT + 1] * rows), PREFILL_TOKENS // PROMPT
        for start in range(0, rows, size):
            some = range(start, min(start + size, rows))
            store.aim([Span(row=row, start=0, tokens=PROMPT) for row in some])
            positions = torch.arange(PROMPT).repeat(len(some))[None]
            ids = torch.randint(1000, tuple(positions.shape))
            run_decoder(self.model, store, ids, positions)
        return store

    def step(self, store: KVCache) -> None:
        """Make one token for each row."""
        import torch

        store.aim_step([PROMPT] * store.rows)
        tokens = torch.ones(store.rows, 1, dtype=torch.int64)
        positions = torch.full((store.rows, 1), PROMPT)
        hidden = run_decoder(self.model, store, tokens, positions)
        self.head(hidden[:, 0]).argmax(dim=-1)


def show(what: str, tokens: int, own: float, limit: float) -> None:
    """Print one line."""
    print(
        f"{what}: {tokens / own:.0f} tokens/s, limit {tokens / limit:.0f}, {limit / own:.0%}",
        flush=True,
    )


def main() -> None:
    """Print tokens per second, the limit, and the share that is reached."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32, 64])
    given = parser.parse_args()
    for dtype in ("float32", "bfloat16"):
        model = load_base(resolve_base(given.base), dtype).model
        passes, rows = Passes(model), given.tokens // PROMPT
        with torch.inference_mode(), prepack_linear_layers(model):
            limit = seconds(products(model, rows * PROMPT, head=False))
            own = seconds(partial(passes.read, rows))
            show(f"{dtype} reading {rows} rows of {PROMPT}", rows * PROMPT, own, limit)
            for rows in given.rows:
                limit = seconds(products(model, rows, head=True))
                own = seconds(partial(passes.step, passes.read(rows)))
                show(f"{dtype} decoding {rows} rows", rows, own, limit)


if __name__ == "__main__":
    main()
