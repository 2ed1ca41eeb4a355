"""Try a stranger's tokenizer beside the base's: a small program that `tokenizer_behaviour` starts.

It is run by its path, in an interpreter without environment and site-packages; its arguments are
the folders that hold transformers, what that needs, and this package. On stdin it takes one JSON
object: ``base``, ``bare`` (the base's files without its config.json), ``folder``, and ``texts``. On
stdout it writes `READY` when the base's own tokenizers are made, then one JSON object (see
`tokenizer_comparison.answer`).
"""

import json
import os
import sys

READY = b"ready\n"
MEMORY_MIB = 3072
"""Of address space, most of which is only reserved: a table of 200,000 words takes about 500."""

CPU_SECONDS = 300
"""For the base, which is trusted and may lie on a slow machine; from then on it is `allowance`."""

_HIDDEN = (
    "torch", "torchvision", "tensorflow", "jax", "flax", "sklearn", "scipy", "pandas", "PIL",
    "trio",
)  # fmt: skip
"""What transformers would import where it is there, and a tokenizer does not need.

trio starts a compiler to find a library, which a process that may start none cannot.
"""

_OFFLINE = {
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error",
}  # fmt: skip


def allowance(used: float) -> int:
    """Return how many seconds the folder's tokenizers may compute, of what the base's took."""
    return 3 + round(10 * used)


def main() -> None:
    """Take the job from stdin, and write the answer to stdout."""
    job = json.load(sys.stdin.buffer)
    sys.path.extend(sys.argv[1:])
    os.environ.update(_OFFLINE)
    for name in _HIDDEN:
        sys.modules[name] = None  # type: ignore[assignment]
    import time

    import transformers  # noqa: F401 - its time is not the base's

    from phi3_lora_qa.adapter.tokenizer.tokenizer_comparison import answer, corpus
    from phi3_lora_qa.adapter.tokenizer.tokenizer_loaders import same_files, ways

    start = time.process_time()
    failed: dict[str, str] = {}
    same = same_files(job)
    base = ways(job["base"], failed, same)
    if not base and not same:
        raise SystemExit(3)
    texts = corpus(job["texts"], list(base.values()))
    for way in base.values():
        way.ids(texts)
    limit_seconds(allowance(time.process_time() - start))
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    sys.stdout.buffer.write(json.dumps(answer(job, base)).encode("ascii"))


def limit_seconds(more: int) -> None:
    """Give up computing time, but for some seconds more."""
    try:
        import resource
    except ImportError:  # not POSIX: the parent's clock is what remains
        return
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(spent.ru_utime + spent.ru_stime) + more
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    ceiling = limit + 1 if hard == resource.RLIM_INFINITY else min(limit + 1, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (min(limit, ceiling), ceiling))


if __name__ == "__main__":
    main()
