"""Where a base is loaded: one GPU if it fits there, all of them if not, never the disk."""

from phi3_lora_qa.models.placement import distributed, placement

GIB = 1 << 30


def test_on_the_cpu_and_on_one_device_everything_is_there() -> None:
    assert placement("cpu", "x", "float32", "none") == {}
    assert placement("cpu", "x", "float32", "nf4") == {"device_map": {"": "cpu"}}
    assert placement("cuda:2", "x", "float32", "none") == {"device_map": {"": "cuda:2"}}


def test_a_base_that_fits_is_on_the_gpu_with_most_free_memory() -> None:
    assert distributed({0: 8 * GIB, 1: 20 * GIB}, 10 * GIB) == {"device_map": {"": "cuda:1"}}
    assert distributed({0: 9 * GIB, 1: 9 * GIB}, 4 * GIB) == {"device_map": {"": "cuda:0"}}
    assert distributed({0: 8 * GIB}, 100 * GIB) == {"device_map": {"": "cuda:0"}}


def test_a_base_that_does_not_fit_or_is_unknown_is_on_all_gpus_and_not_on_the_cpu() -> None:
    expected = {"device_map": "balanced", "max_memory": {0: 7 * GIB, 1: 19 * GIB}}
    assert distributed({0: 8 * GIB, 1: 20 * GIB}, 20 * GIB) == expected
    assert distributed({0: 8 * GIB, 1: 20 * GIB}, 0) == expected
