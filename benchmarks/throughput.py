"""How close prefill and decoding get to the speed of their matrix products.

Usage: python benchmarks/throughput.py [--base smollm2] [--tokens 2048] [--rows 8 32 64]

The limit is measured: every weight matrix of the model is multiplied once with as many rows as the
pass has (prefill: tokens; decoding: rows), and nothing else is computed. The language-model head is
included if the pass applies it. All runs are in one process; the medians of several are printed.
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

RUNS = 5
PROMPT = 128


def seconds(work: Callable[[], object]) -> float:
    """Return the median wall time of several runs, after a first one that is not counted."""
    work()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def products(model: Any, rows: int, head: bool) -> Callable[[], object]:
    """Return a function that multiplies every weight matrix once with ``rows`` rows."""
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
    """The passes of the scoring engine over one model, on random tokens."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.head = model.get_output_embeddings()

    def prefill(self, rows: int) -> KVCache:
        """Read ``rows`` prompts, in passes as large as those of scoring."""
        import torch

        kv_cache, size = KVCache([PROMPT + 1] * rows), PREFILL_TOKENS // PROMPT
        for start in range(0, rows, size):
            chosen = range(start, min(start + size, rows))
            kv_cache.set_spans([Span(row=row, start=0, tokens=PROMPT) for row in chosen])
            positions = torch.arange(PROMPT).repeat(len(chosen))[None]
            ids = torch.randint(1000, tuple(positions.shape))
            run_decoder(self.model, kv_cache, ids, positions)
        return kv_cache

    def step(self, kv_cache: KVCache) -> None:
        """Decode one token for each row."""
        import torch

        kv_cache.set_step([PROMPT] * kv_cache.rows)
        tokens = torch.ones(kv_cache.rows, 1, dtype=torch.int64)
        positions = torch.full((kv_cache.rows, 1), PROMPT)
        hidden = run_decoder(self.model, kv_cache, tokens, positions)
        self.head(hidden[:, 0]).argmax(dim=-1)


def show(what: str, tokens: int, taken: float, limit: float) -> None:
    """Print one line."""
    print(
        f"{what}: {tokens / taken:.0f} tokens/s, limit {tokens / limit:.0f}, {limit / taken:.0%}",
        flush=True,
    )


def main() -> None:
    """Print tokens per second, the limit, and the fraction of the limit that is reached."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32, 64])
    arguments = parser.parse_args()
    for dtype in ("float32", "bfloat16"):
        model = load_base(resolve_base(arguments.base), dtype).model
        passes, rows = Passes(model), arguments.tokens // PROMPT
        with torch.inference_mode(), prepack_linear_layers(model):
            limit = seconds(products(model, rows * PROMPT, head=False))
            taken = seconds(partial(passes.prefill, rows))
            show(f"{dtype} prefill of {rows} rows of {PROMPT}", rows * PROMPT, taken, limit)
            for rows in arguments.rows:
                limit = seconds(products(model, rows, head=True))
                taken = seconds(partial(passes.step, passes.prefill(rows)))
                show(f"{dtype} decoding {rows} rows", rows, taken, limit)


if __name__ == "__main__":
    main()
