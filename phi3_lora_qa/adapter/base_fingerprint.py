"""A base's identity as one hash, from its files: the same for every dtype that holds the values."""

from phi3_lora_qa.adapter.safetensors_file import READABLE, SafetensorsFile, TensorInfo

_ROWS = 8
_WHOLE = 1 << 14


def fingerprint(files: tuple[SafetensorsFile, ...], *, tied: bool) -> str:
    """Hash names, shapes and a sample of the values of every tensor.

    Of a large tensor eight rows are read, evenly spaced, as float32: bases that were trained apart
    differ in every row. It tells bases apart that were mixed up, and takes milliseconds for one of
    gigabytes; it is no proof against somebody who changes single rows on purpose.

    Args:
        files: The base's weights.
        tied: Whether its head is the embedding table: a copy of it may be there or not.

    Returns:
        64 hexadecimal digits, or "" where there are no weights.
    """
    import hashlib

    import numpy as np

    digest = hashlib.sha256()
    tensors = {name: (file, info) for file in files for name, info in file.tensors.items()}
    for name, (file, info) in sorted(tensors.items()):
        if tied and name == "lm_head.weight":
            continue
        digest.update(f"{name}\0{info.shape}\0".encode())
        for rows in _sample(info):
            values = file.tensor(name, rows) if info.dtype in READABLE else np.empty(0)
            digest.update(np.ascontiguousarray(values, dtype=np.float32).tobytes())
    return digest.hexdigest() if tensors else ""


def _sample(info: TensorInfo) -> list[slice | None]:
    if info.size <= _WHOLE or not info.shape:
        return [None]
    count = info.shape[0]
    starts = sorted({number * (count - 1) // (_ROWS - 1) for number in range(_ROWS)})
    return [slice(start, start + 1) for start in starts]
