"""Tests for which no file stands: their ids on the command line, and where reports say they are."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest


class VirtualItem(pytest.Item):
    """A test that is no Python function."""

    def reportinfo(self) -> tuple[Path, int, str]:
        """Say in listings and JUnit files what this is."""
        return self.path, 0, self.nodeid  # pytest wants a line when an item is skipped by a mark


def hang_in_front(report: pytest.CollectReport, node: pytest.Collector) -> pytest.CollectReport:
    """Put a virtual collector before what a session has collected."""
    report.result = [node, *(report.result or [])]
    return report


def take_ids(args: Sequence[str], root: str) -> tuple[list[str], list[str]]:
    """Split pytest's arguments into ids at or below ``root`` and everything else.

    Below the root directory pytest prints the ids as paths, with ``../`` before them.
    """
    pattern = re.compile(rf"(?:\.\./)*({root}(?:::.*)?)", re.DOTALL)
    found = [(arg, pattern.fullmatch(arg)) for arg in args]
    return [m[1] for _, m in found if m], [arg for arg, m in found if not m]
