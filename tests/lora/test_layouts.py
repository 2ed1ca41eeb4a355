import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Array, Factors
from tests.lora.drawing import to_numpy


def test_blocks_are_set_on_the_diagonal() -> None:
    stacked = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    expected = [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [0, 0, 7, 8]]
    assert lora.block_diagonal(stacked, 2).tolist() == expected
    assert lora.block_diagonal(stacked, 1).tolist() == stacked.tolist()


def test_diagonal_blocks_inverts_block_diagonal() -> None:
    stacked = np.arange(24.0).reshape(12, 2)
    for blocks in (1, 2, 3, 4):
        found = lora.diagonal_blocks(lora.block_diagonal(stacked, blocks), blocks)
        assert found.tolist() == stacked.tolist()


def test_the_delta_of_an_embedding_is_the_transpose_of_a_linear_layers() -> None:
    f = Factors(A=np.array([[1.0, 2.0, 3.0]]), B=np.array([[1.0], [-1.0]]), scaling=2.0)
    assert lora.embedding_delta(f).tolist() == [[2, -2], [4, -4], [6, -6]]


def test_merged_linear_gives_each_enabled_block_its_own_factors_and_zero_to_the_others() -> None:
    a = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 3.0]])
    b = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    f = lora.merged_linear(a, b, 0.5, [True, False, True])
    assert f.rank == 4
    assert f.scaling == 0.5
    assert f.B.tolist() == [
        [1, 2, 0, 0],
        [3, 4, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 5, 6],
        [0, 0, 7, 8],
    ]
    assert lora.delta(f).tolist() == [[0.5, 1], [1.5, 2], [0, 0], [0, 0], [8, 11.5], [11, 15.5]]


@pytest.mark.parametrize(
    ("a", "b", "mask", "message"),
    [
        ((2, 3), (4, 2), [False, False], "enables no block; enable at least one"),
        ((2, 3), (4, 2), [True, True], r"do not fit 2 enabled blocks: A \(2, 3\) and B \(4, 2\)"),
        ((4, 3), (5, 2), [True, True], r"pass A \(r·k, in\) and B \(out/n·k, r\)"),
    ],
)
def test_factors_that_do_not_belong_to_the_mask_are_refused(
    a: tuple[int, int], b: tuple[int, int], mask: list[bool], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lora.merged_linear(np.zeros(a), np.zeros(b), 1.0, mask)


def test_pefts_convolution_is_b_times_each_place_of_a() -> None:
    a = np.arange(8.0).reshape(2, 2, 2)  # r, in, kernel
    b = np.array([[[1.0], [10.0]], [[0.0], [-1.0]], [[2.0], [0.5]]])
    f = lora.peft_conv(a, b, 2.0)
    assert f.A.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert f.B.tolist() == [[1, 10], [0, -1], [2, 0.5]]
    kernel = lora.as_kernel(lora.delta(f), (2,))
    assert kernel.shape == (3, 2, 2)
    assert kernel[0].tolist() == [[80, 102], [124, 146]]
    assert kernel[1].tolist() == [[-8, -10], [-12, -14]]


def test_with_groups_an_output_channel_reads_its_own_groups_share_of_the_rank() -> None:
    a = np.arange(4.0).reshape(4, 1, 1, 1)
    b = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
    f = lora.peft_conv(a, b, 1.0, groups=2)
    assert f.B.tolist() == [[1, 2, 0, 0], [0, 0, 3, 4]]
    assert lora.delta(f).tolist() == [[2], [18]]


@pytest.mark.parametrize(("rank", "out"), [(3, 2), (4, 3)])
def test_a_rank_or_width_that_groups_do_not_divide_is_refused(rank: int, out: int) -> None:
    a, b = np.zeros((rank, 1, 1)), np.zeros((out, 2, 1))
    with pytest.raises(InputError, match=r"do not fit 2 groups: .*; pass A"):
        lora.peft_conv(a, b, 1.0, groups=2)


def test_a_grouped_kernel_is_dense_with_zeros_for_the_other_groups() -> None:
    weight = np.array([[[1.0, 2.0]], [[3.0, 4.0]]])
    assert lora.dense_kernel(weight, 2).tolist() == [[1, 2, 0, 0], [0, 0, 3, 4]]


def test_loralibs_convolution_reads_the_product_in_the_kernels_shape() -> None:
    a = np.array([[1.0, 2.0, 3.0, 4.0]])
    b = np.array([[1.0], [0.0], [-1.0], [2.0]])
    found = lora.loralib_conv_delta(a, b, 2.0, (2, 2, 2, 2))
    assert found[0].tolist() == [[[2, 4], [6, 8]], [[0, 0], [0, 0]]]
    assert found[1].tolist() == [[[-2, -4], [-6, -8]], [[4, 8], [12, 16]]]


def test_convolutions_that_fail_in_loralib_are_refused() -> None:
    import loralib

    layer = loralib.Conv1d(2, 3, 2, r=1)
    a, b = to_numpy(layer.lora_A), to_numpy(layer.lora_B)
    with pytest.raises(InputError, match=r"loralib cannot adapt this convolution: .*; use PEFT"):
        lora.loralib_conv_delta(a, b, 1.0, layer.conv.weight.shape)
    with pytest.raises(RuntimeError):
        layer.eval()


def test_patches_are_the_inputs_of_each_output_position() -> None:
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert lora.patches(x, (2,)).tolist() == [[1, 2, 4, 5], [2, 3, 5, 6]]
    assert lora.patches(x, (2,), stride=(2,)).tolist() == [[1, 2, 4, 5]]
    padded = lora.patches(x, (2,), stride=(2,), padding=(1,))
    assert padded.tolist() == [[0, 1, 0, 4], [2, 3, 5, 6]]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_flattened_kernel_on_patches_is_torchs_convolution(dims: int) -> None:
    import torch

    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[dims - 1]
    rng = np.random.default_rng(dims)
    for _ in range(350):
        groups, size = int(rng.integers(1, 3)), rng.integers(1, 3, dims)
        in_features, out = (groups * int(n) for n in rng.integers(1, 4, 2))
        stride, padding = (tuple(int(n) for n in rng.integers(k, 3, dims)) for k in (1, 0))
        x = integers(rng, (in_features, *rng.integers(2, 5, dims)))
        weight = integers(rng, (out, in_features // groups, *size))
        given = (torch.from_numpy(x)[None], torch.from_numpy(weight))
        there = convolve(*given, stride=stride, padding=padding, groups=groups)
        rows = lora.patches(x, weight.shape[2:], stride=stride, padding=padding)
        here = rows @ lora.dense_kernel(weight, groups).T
        assert np.array_equal(here.T, to_numpy(there[0]).reshape(out, -1))


def test_merged_linear_equals_loralibs_to_the_last_bit_on_whole_numbers() -> None:
    import loralib
    import torch

    rng = np.random.default_rng(5)
    for _ in range(1000):
        mask = [bool(m) for m in rng.random(int(rng.integers(1, 5))) < 0.7]
        if not any(mask):
            continue
        rank, inputs, rows = (int(n) for n in rng.integers(1, 4, 3))
        layer = loralib.MergedLinear(
            inputs, rows * len(mask), r=rank, enable_lora=mask, dtype=torch.float64
        )
        a, b = (integers(rng, tuple(p.shape)) for p in (layer.lora_A, layer.lora_B))
        layer.lora_A.data, layer.lora_B.data = torch.from_numpy(a), torch.from_numpy(b)
        f = lora.merged_linear(a, b, 1.0, mask)
        assert np.array_equal(lora.delta(f), to_numpy(layer.merge_AB()))


def integers(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Integers, on which no sum or product here rounds."""
    return rng.integers(-9, 10, shape).astype(np.float64)
