"""Compares dotted module names by suffix, as peft does."""


def matches_suffix(name: str, suffix: str) -> bool:
    """Whether a dotted name is ``suffix``, or ends with it after a dot."""
    return name == suffix or name.endswith(f".{suffix}")


def name_suffixes(name: str) -> list[str]:
    """Return a dotted name, and each part of it that follows a dot, longest first."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
