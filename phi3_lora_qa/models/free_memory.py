"""How much memory a model can still get: of the machine, of its container, and of a GPU."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from phi3_lora_qa.models.devices import usable_gpus
from phi3_lora_qa.reading import read_text
from phi3_lora_qa.setting_specs import CPU, CUDA, MPS

_MOST_BYTES = 1 << 20
_V1_LIMIT, _V1_USED = "memory.limit_in_bytes", "memory.usage_in_bytes"
_V2_LIMIT, _V2_USED = "memory.max", "memory.current"


def free_bytes(device: str) -> int | None:
    """Return the free memory of a device in bytes; None if it is not known.

    Args:
        device: ``cpu``, ``mps``, ``cuda:N``, or ``cuda`` for all GPUs together.
    """
    if device == CPU:
        return free_ram()
    import torch

    if device == CUDA:
        return sum(torch.cuda.mem_get_info(number)[0] for number in usable_gpus())
    if device.startswith(CUDA):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    if device == MPS:
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def free_ram(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process can still get, swap included; None if it is not known.

    A container's limit counts too: that is what ends a process there.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    try:
        text = read_text(root / "proc/meminfo", _MOST_BYTES)
    except OSError:  # not Linux
        return _whole_ram()
    kilobytes = {name: int(size) for name, size in re.findall(r"(\w+):\s+(\d+) kB", text)}
    sizes = [kilobytes[name] << 10 for name in ("MemAvailable",) if name in kilobytes]
    smallest = min([*sizes, *_of_groups(root)], default=None)
    return None if smallest is None else smallest + (kilobytes.get("SwapFree", 0) << 10)


def _whole_ram() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _of_groups(root: Path) -> Iterator[int]:
    """Yield what is left in this process's control group, and in each group around it."""
    try:
        lines = read_text(root / "proc/self/cgroup", _MOST_BYTES).splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        place = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit, used = (_V1_LIMIT, _V1_USED) if controllers else (_V2_LIMIT, _V2_USED)
        own = place / path.lstrip("/")
        # Inside a container the path may be the host's, while its own group is mounted at the top.
        for group in (own, *own.parents):
            if group == place or place in group.parents:
                yield from _left_in(group, limit, used)


def _left_in(group: Path, limit: str, used: str) -> Iterator[int]:
    try:
        most, current = (int(read_text(group / name, _MOST_BYTES)) for name in (limit, used))
        stat = read_text(group / "memory.stat", _MOST_BYTES)
    except (OSError, ValueError):  # no such group, or "max": no limit
        return
    # The file cache counts as used and is given up on demand. Version 1 has totals of their own.
    files = dict(re.findall(r"^((?:total_)?(?:in)?active_file) (\d+)$", stat, re.MULTILINE))
    total = "total_" if "total_active_file" in files else ""
    cached = sum(int(files.get(f"{total}{kind}_file", 0)) for kind in ("active", "inactive"))
    yield max(0, most - max(0, current - cached))
