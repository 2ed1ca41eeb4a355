"""Checks that the process can still map enough memory to import numpy."""

import mmap
import os
import sys

from phi3_lora_qa.errors import MachineError

_NUMPY_BYTES, _THREAD_BYTES, _MAX_THREADS = 96 << 20, 48 << 20, 64
"""Address space in bytes for importing numpy and for each of its threads.

Measured with numpy 2.4, rounded up.
"""


def require_memory_for_numpy() -> None:
    """Check that there is enough address space for numpy, before it is imported.

    Without it, numpy's OpenBLAS exits the process with status 1 and raises no exception.

    Raises:
        MachineError: There is not enough address space.
    """
    if "numpy" in sys.modules or sys.platform != "linux":
        return
    given = (os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
    chosen = next((int(text) for text in given if text.isdecimal() and int(text)), _MAX_THREADS)
    threads = min(chosen, len(os.sched_getaffinity(0)), _MAX_THREADS)
    size = _NUMPY_BYTES + threads * _THREAD_BYTES
    try:  # a read-only mapping uses address space, and no memory
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ).close()
    except OSError as error:
        raise MachineError(
            "the machine ran out of memory; free some, raise the limit (ulimit -v, or the job's "
            "limit), or set OPENBLAS_NUM_THREADS=1"
        ) from error
