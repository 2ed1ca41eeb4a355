"""Runs a command as in an environment without some packages: their imports fail."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_HOOK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_without(
    modules: Iterable[str], command: list[str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m COMMAND`` in a folder; ``modules`` cannot be imported."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_HOOK.format(modules=set(modules)))
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
