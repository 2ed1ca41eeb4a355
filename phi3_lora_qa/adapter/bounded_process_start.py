"""The launcher of every bounded process: it sets resource limits, then runs the actual program.

`bounded_process` runs it by its path, in an interpreter without environment and site-packages:
``bounded_process_start.py CPU_SECONDS MEMORY_MIB OPEN_FILES PROGRAM ARGUMENT…``. It imports nothing
from the package, and no line of the program runs without limits.
"""

import sys


def main() -> None:
    """Set the limits that the arguments give, and run the program with the other arguments."""
    cpu_seconds, memory_mib, open_files, program = sys.argv[1:5]
    limit_resources(int(cpu_seconds), int(memory_mib), int(open_files))
    sys.argv = sys.argv[4:]
    with open(program, encoding="utf-8") as file:  # noqa: PTH123 - importing pathlib is slow
        code = compile(file.read(), program, "exec")
    exec(code, {"__name__": "__main__", "__file__": program})


def limit_resources(cpu_seconds: int, memory_mib: int, open_files: int) -> None:
    """Limit time, memory, files and processes, as far as the system supports it."""
    try:
        import resource
    except ImportError:  # not POSIX: only the limits of the parent remain
        return
    memory = memory_mib << 20
    for name, soft, hard in (
        ("RLIMIT_CPU", cpu_seconds, cpu_seconds + 1),
        ("RLIMIT_AS", memory, memory),
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_NOFILE", open_files, open_files),
        ("RLIMIT_NPROC", 0, 0),
        ("RLIMIT_CORE", 0, 0),
    ):
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        _, ceiling = resource.getrlimit(kind)
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)  # noqa: PLW2901 - a limit is never raised
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError):  # macOS defines RLIMIT_AS but does not support it
            continue


if __name__ == "__main__":
    main()
