"""The optional parts of the package: which modules each extra brings, and who needs one.

Without an extra the package checks files and draws reports. Everything that loads a model needs
one of these, and this is the only place that knows which.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from phi3_lora_qa.errors import MissingDependencyError, causes

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("transformers", "tokenizers", "sentencepiece", "regex", "huggingface_hub"),
    "gate": (
        "torch", "peft", "accelerate", "datasets", "evaluate", "pandas", "pyarrow", "rouge_score",
        "sacrebleu", "hypothesis", "pytest", "httpx2", "httpcore2", "threadpoolctl", "gguf",
    ),
    "train": ("trl", "rich"),
    "loralib": ("loralib",),
    "qlora": ("bitsandbytes",),
}  # fmt: skip
"""The modules that each extra brings, besides those of the extras that it includes."""

INCLUDED: Mapping[str, tuple[str, ...]] = {
    "tokenizer": (),
    "gate": ("tokenizer",),
    "train": ("tokenizer", "gate"),
    "loralib": ("tokenizer", "gate"),
    "qlora": ("tokenizer", "gate", "train"),
}
"""The other extras that an extra includes."""


def pip_command(extra: str) -> str:
    """Return the command that installs an extra.

    Example:
        >>> pip_command("gate")
        'pip install "phi3-lora-qa[gate]"'
    """
    return f'pip install "phi3-lora-qa[{extra}]"'


def extra_of(module: str) -> str:
    """Return the extra that brings a module; empty if the package itself or nothing brings it.

    Example:
        >>> extra_of("torch"), extra_of("numpy")
        ('gate', '')
    """
    return next((extra for extra, modules in EXTRAS.items() if module in modules), "")


def require_extra(extra: str, what: str) -> None:
    """Raise unless every module of an extra is installed; none of them is imported.

    Args:
        extra: The extra.
        what: What needs it, at the start of the message, such as ``--phi3-adapter``.

    Raises:
        MissingDependencyError: Names the missing modules and the pip command.

    Example:
        >>> require_extra("gate", "the gate")
    """
    needed = [name for part in (*INCLUDED[extra], extra) for name in EXTRAS[part]]
    missing = [name for name in needed if not is_installed(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" * (len(missing) > 3))
        raise MissingDependencyError(
            f"{what} needs packages that are not installed: {names} {verb} missing; "
            f"run: {pip_command(extra)}"
        )


def is_installed(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a finder refuses it, or it was replaced
        return False


def missing_module(error: BaseException) -> MissingDependencyError | None:
    """Return an error with the pip command if a module of an extra is missing; None otherwise.

    Args:
        error: Any error; its causes are searched, too.
    """
    return next(_missing(error), None)


def _missing(error: BaseException) -> Iterator[MissingDependencyError]:
    for cause in causes(error):
        module = ""
        if isinstance(cause, ModuleNotFoundError):
            module = (cause.name or "").partition(".")[0]
        if extra := extra_of(module):
            yield MissingDependencyError(f"{module} is not installed; run: {pip_command(extra)}")
