"""The fixture that the tests of the rules share."""

from pathlib import Path

import pytest

from tests.adapter.tiny_base import write_base


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny base. No test changes it."""
    return write_base(tmp_path_factory.mktemp("base"))
