"""Whether numpy fits into the memory that this process may still map."""

import mmap
import os
import sys

from phi3_lora_qa.errors import MachineError

_FOR_NUMPY, _FOR_A_THREAD, _MOST_THREADS = 96 << 20, 48 << 20, 64
"""Bytes of address space that importing numpy takes, measured with numpy 2.4, and more."""


def require_room_for_numpy() -> None:
    """Find out whether there is address space for numpy, before it is imported.

    Its OpenBLAS ends the process where it gets none, with exit status 1 and no exception.

    Raises:
        MachineError: There is not.
    """
    if "numpy" in sys.modules or sys.platform != "linux":
        return
    given = (os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
    chosen = next((int(text) for text in given if text.isdecimal() and int(text)), _MOST_THREADS)
    threads = min(chosen, len(os.sched_getaffinity(0)), _MOST_THREADS)
    size = _FOR_NUMPY + threads * _FOR_A_THREAD
    try:  # what cannot be written takes addresses, and no memory
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ).close()
    except OSError as error:
        raise MachineError(
            "the machine is short of memory; free some, or raise its limit (ulimit -v, or the "
            "job's), or set OPENBLAS_NUM_THREADS=1"
        ) from error
