"""The scaling of a case follows from its alpha, rank and rsLoRA."""

import numpy as np

from phi3_lora_qa.strategies import ConvCase, EmbeddingCase, MergedLinearCase

ONES = np.ones((4, 2))


def test_the_scaling_of_an_embedding_divides_by_the_rows_of_a() -> None:
    ids = np.zeros((1, 1), dtype=np.int64)
    case = EmbeddingCase(
        dtype="float32", table=ONES, A=ONES, B=ONES.T, alpha=8, rslora=False, ids=ids
    )
    assert case.scaling == 2.0


def test_the_scaling_of_a_convolution_may_be_rank_stabilized() -> None:
    kernel = np.ones((4, 1, 1))
    case = ConvCase(
        dtype="float32", weight=kernel, base_bias=None, A=kernel, B=np.ones((4, 4, 1)), alpha=8,
        rslora=True, groups=1, stride=1, padding=0, x=np.ones((1, 1, 1)),
    )  # fmt: skip
    assert case.scaling == 4.0


def test_the_scaling_of_a_merged_linear_divides_by_the_rank_of_one_block() -> None:
    case = MergedLinearCase(
        dtype="float32", weight=np.ones((6, 2)), base_bias=None, enable_lora=(True, False, True),
        rank=2, A=ONES, B=np.ones((4, 2)), alpha=1, x=np.ones((1, 2)),
    )  # fmt: skip
    assert case.scaling == 0.5
    assert repr(case).startswith("MergedLinearCase(dtype='float32', weight=array([[1.0, 1.0]")
