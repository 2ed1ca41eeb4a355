import subprocess
import sys

import pytest

from phi3_lora_qa.adapter.memory import require_memory_for_numpy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits address space")

CODE = """
import resource
from phi3_lora_qa.adapter.memory import require_memory_for_numpy
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + MIB * 2**20, resource.RLIM_INFINITY))
require_memory_for_numpy()
print("enough")
"""


def run_with(mib: int) -> "subprocess.CompletedProcess[str]":
    code = CODE.replace("MIB", str(mib))
    environment = {"OPENBLAS_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_enough_address_space_is_accepted() -> None:
    assert run_with(1024).stdout == "enough\n"


def test_too_little_address_space_is_an_error_of_the_machine() -> None:
    done = run_with(100)
    assert "MachineError: the machine ran out of memory; free some" in done.stderr


def test_an_imported_numpy_needs_no_more_memory() -> None:
    import numpy  # noqa: F401

    require_memory_for_numpy()
