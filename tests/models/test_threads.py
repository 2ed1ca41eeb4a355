"""Small models use one thread, and the number of threads is restored."""

from collections.abc import Iterator

import pytest
import torch

from phi3_lora_qa.models import threads
from phi3_lora_qa.models.threads import fitting_threads, one_thread


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_model_uses_one_thread_and_a_large_one_keeps_the_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = torch.nn.Linear(10, 10)
    with fitting_threads(model):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(threads, "SMALL", 110)
    with fitting_threads(model):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("context", [one_thread(), fitting_threads(torch.nn.Linear(1, 1))])
def test_the_number_of_threads_is_restored_after_an_error(context: object) -> None:
    def fail() -> None:
        with context:  # type: ignore[attr-defined]
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == 2


def test_numpy_computes_in_one_thread_too() -> None:
    from threadpoolctl import threadpool_info

    with one_thread():
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert all(pool["num_threads"] == 1 for pool in pools)
