"""Suggestions for mistyped names."""

from collections.abc import Iterable


def close_matches(
    name: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6
) -> tuple[str, ...]:
    """Return the known names that are most similar to a name, best first.

    Args:
        name: The unknown name.
        known: The names to choose from.
        n: The most names to return.
        cutoff: The least similarity, from 0 to 1 (`difflib.SequenceMatcher.ratio`).

    Returns:
        At most ``n`` names; empty if none is similar enough.
    """
    import difflib  # not needed until somebody mistypes

    return tuple(difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff))


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``did you mean 'NAME'?`` for the most similar known name; empty without one."""
    close = close_matches(name, known, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""
