"""Tests without a file: their ids on the command line, and their location in reports."""

import re
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest


class VirtualItem(pytest.Item):
    """A test that is not a Python function."""

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the location that listings and JUnit files show."""
        return self.path, 0, self.nodeid  # pytest needs a line when a mark skips an item


class VirtualRoot:
    """Adds a virtual collector to a session, before the user's tests."""

    def make_collector(self, session: pytest.Session) -> pytest.Collector:
        """Return the collector."""
        raise NotImplementedError

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Prepend the collector to what the session has collected."""
        report = yield
        if isinstance(collector, pytest.Session):
            report.result = [self.make_collector(collector), *(report.result or [])]
        return report


def split_node_ids(args: Sequence[str], root: str) -> tuple[list[str], list[str]]:
    """Split pytest's arguments into ids at or below ``root``, and the rest.

    In a folder below the root directory, pytest prints the ids with a leading ``../``.
    """
    pattern = re.compile(rf"(?:\.\./)*({root}(?:::.*)?)", re.DOTALL)
    matches = [(arg, pattern.fullmatch(arg)) for arg in args]
    return [m[1] for _, m in matches if m], [arg for arg, m in matches if not m]
