import os
import time
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.bounded_process import Limits, folders_of, run_child
from phi3_lora_qa.errors import MissingDependencyError

LIMITS = Limits(wall_seconds=20.0, cpu_seconds=5, memory_mib=512, output_bytes=1000)


def run(code: str, folder: Path, *, limits: Limits = LIMITS, job: bytes = b"") -> tuple[bytes, str]:
    program = folder / "program.py"
    program.write_text(f"import os, sys, time\n{code}\n")
    return run_child(program, ["one", "two"], job, limits)


def test_the_program_gets_its_job_and_arguments_and_returns_its_output(tmp_path: Path) -> None:
    code = "print(sys.argv[1:], sys.stdin.read(), __name__)"
    assert run(code, tmp_path, job=b"job") == (b"['one', 'two'] job __main__\n", "")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and process groups")
def test_a_process_that_the_program_started_is_killed_with_it(tmp_path: Path) -> None:
    limits = Limits(wall_seconds=0.5, cpu_seconds=5, memory_mib=512, output_bytes=1000)
    code = "print(os.fork(), flush=True) if os.getuid() == 0 else None\ntime.sleep(60)"
    output, failure = run(code, tmp_path, limits=limits)
    assert failure == "took longer than 0.5 s"
    for text in output.split():
        process = int(text)
        for _ in range(50):
            if process == 0 or not Path(f"/proc/{process}/stat").exists():
                break
            if Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"process {process} is still running")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX resource limits")
@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("while True: pass", "took longer than 1 s of CPU time"),
        ("print('x' * 5000)", "wrote more than 1000 bytes"),
        ("sys.exit(3)", "exited with status 3"),
        ("x = bytearray(1 << 31)", "exited with status 1"),
    ],
)
def test_a_failure_is_described(code: str, failure: str, tmp_path: Path) -> None:
    limits = Limits(wall_seconds=20.0, cpu_seconds=1, memory_mib=512, output_bytes=1000)
    assert run(code, tmp_path, limits=limits)[1] == failure


def test_folders_are_those_that_contain_the_packages() -> None:
    (folder,) = folders_of("pytest", "_pytest")
    assert (Path(folder) / "pytest" / "__init__.py").is_file()


def test_a_missing_package_is_an_error_with_the_command_to_install_it() -> None:
    with pytest.raises(MissingDependencyError, match="no_such_package is not installed; run: pip"):
        folders_of("no_such_package")


def test_the_environment_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    output, failure = run("print('SECRET' in os.environ)", tmp_path)
    assert (output, failure) == (b"False\n", "")
