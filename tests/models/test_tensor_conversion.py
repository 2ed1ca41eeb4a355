"""Tensors as float64 arrays, and back."""

import pytest

from phi3_lora_qa.models.tensor_conversion import to_float64, to_tensor


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_values_are_exact_copies_that_share_no_memory_with_the_tensor(dtype: str) -> None:
    import torch

    tensor = torch.tensor([[1.5, -0.25], [3.0, 0.0]], dtype=getattr(torch, dtype))
    found = to_float64(tensor)
    assert torch.equal(to_tensor(found, dtype), tensor)
    tensor.fill_(7.0)
    assert found.tolist() == [[1.5, -0.25], [3.0, 0.0]]
