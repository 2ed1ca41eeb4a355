"""The child process that loads and compares tokenizers; `tokenizer_behaviour` starts it.

It is run by its path, in an interpreter without environment and site-packages; its arguments are
the folders of transformers, transformers' dependencies, and this package. On stdin it takes one
JSON object: ``base``, ``bare`` (the base's files without its config.json), ``folder``, ``texts``,
and ``leave_out``. On stdout it writes `READY` when the base's tokenizers are loaded, then one JSON
object (see `tokenizer_comparison.compare_folders`).
"""

import json
import os
import sys

READY = b"ready\n"
MEMORY_MIB = 3072
"""Address space in MiB, most of which is only reserved: a vocabulary of 200,000 takes about 500."""

CPU_SECONDS = 300
"""CPU time for the base, which is trusted and may be on a slow machine; then see `allowance`."""

_HIDDEN = (
    "torch", "torchvision", "tensorflow", "jax", "flax", "sklearn", "scipy", "pandas", "PIL",
    "trio",
)  # fmt: skip
"""Packages that transformers imports if they are installed, and a tokenizer does not need.

trio runs a compiler to find a library, and this process may not start one.
"""

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error",
}  # fmt: skip


def allowance(used: float) -> int:
    """Return the CPU seconds for the folder's tokenizers, given those that the base's used."""
    return 3 + round(10 * used)


def main() -> None:
    """Read the job from stdin, and write the result to stdout."""
    job = json.load(sys.stdin.buffer)
    sys.path.extend(sys.argv[1:])
    os.environ.update(_ENVIRONMENT)
    for name in _HIDDEN:
        sys.modules[name] = None  # type: ignore[assignment]
    import time

    import transformers  # noqa: F401 - its import does not count as the base's time

    from phi3_lora_qa.adapter.tokenizer.tokenizer_comparison import (
        build_probe_texts,
        compare_folders,
    )
    from phi3_lora_qa.adapter.tokenizer.tokenizer_loaders import load_all, same_files

    start = time.process_time()
    errors: dict[str, str] = {}
    same = same_files(job)
    base = load_all(job["base"], errors, same)
    if not base and not same:
        raise SystemExit(3)
    texts = build_probe_texts(job["texts"], list(base.values()))
    for tokenizer in base.values():
        tokenizer.ids(texts)
    limit_seconds(allowance(time.process_time() - start))
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    sys.stdout.buffer.write(json.dumps(compare_folders(job, base)).encode("ascii"))


def limit_seconds(more: int) -> None:
    """Limit the CPU time to some seconds more."""
    try:
        import resource
    except ImportError:  # not POSIX: only the limits of the parent remain
        return
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(spent.ru_utime + spent.ru_stime) + more
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    ceiling = limit + 1 if hard == resource.RLIM_INFINITY else min(limit + 1, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (min(limit, ceiling), ceiling))


if __name__ == "__main__":
    main()
