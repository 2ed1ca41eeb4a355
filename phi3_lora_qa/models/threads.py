"""Choose the number of threads for a model or for small products."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SMALL = 5_000_000
"""With fewer parameters, several threads mostly wait for each other."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and numpy compute in one thread: on small arrays several wait for each other.

    With other programs running on two cores, numpy's product of (64, 16) and (16, 3072) took 24 ms
    with two threads and 0.7 ms with one.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def fitting_threads(model: Any) -> Iterator[None]:
    """Use one thread for a small model, and restore the number afterwards.

    With another program on one of two cores, training the tiny base took 484 s with two threads and
    68 s with one, and scoring 300 items took 30 s and 1 s.
    """
    import torch

    before = torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
