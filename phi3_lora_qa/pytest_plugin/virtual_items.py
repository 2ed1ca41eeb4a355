"""Tests that no file backs: their ids on the command line, and their place in reports."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest


class VirtualItem(pytest.Item):
    """A test that is not a Python function."""

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return what listings and JUnit files show."""
        return self.path, 0, self.nodeid  # pytest needs a line when a mark skips an item


def prepend_collector(report: pytest.CollectReport, node: pytest.Collector) -> pytest.CollectReport:
    """Put a virtual collector before what a session has collected."""
    report.result = [node, *(report.result or [])]
    return report


def split_node_ids(args: Sequence[str], root: str) -> tuple[list[str], list[str]]:
    """Split pytest's arguments into ids at or below ``root``, and the rest.

    Below the root directory pytest prints the ids as paths that begin with ``../``.
    """
    pattern = re.compile(rf"(?:\.\./)*({root}(?:::.*)?)", re.DOTALL)
    matches = [(arg, pattern.fullmatch(arg)) for arg in args]
    return [m[1] for _, m in matches if m], [arg for arg, m in matches if not m]
