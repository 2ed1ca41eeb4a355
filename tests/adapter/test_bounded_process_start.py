import subprocess
import sys
from pathlib import Path

import pytest

from phi3_lora_qa.adapter import bounded_process_start

START = Path(bounded_process_start.__file__)


def start(program: Path, *limits: int) -> str:
    command = [sys.executable, "-I", "-S", str(START), *map(str, limits), str(program), "argument"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_program_runs_as_main_with_the_other_arguments(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys\nprint(__name__, sys.argv[1:], __file__ == sys.argv[0])\n")
    assert start(program, 5, 512, 16) == "__main__ ['argument'] True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems lack some of the limits")
def test_the_limits_are_set_before_the_program_runs(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    names = ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC")
    program.write_text(
        f"import resource\nprint([resource.getrlimit(getattr(resource, n))[0] for n in {names}])\n"
    )
    assert start(program, 7, 256, 32) == f"{[7, 256 << 20, 0, 32, 0]}\n"


def test_it_imports_nothing_from_the_package() -> None:
    assert "phi3_lora_qa" not in START.read_text(encoding="utf-8")
