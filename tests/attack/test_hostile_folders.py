"""No file of an adapter's folder runs or is obeyed, wherever it lies and however pytest is called.

Some of the composed runs are made here; ``make attack`` makes them all.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from phi3_lora_qa.record import load_record
from tests.attack.hostile import FILES, PLACES, WAYS, below, composed, run

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("ATTACKS", "13"))
"""How many hostile runs; 0 for all."""


@pytest.fixture
def bad_adapter(adapter_copy: Callable[[str], Path]) -> Path:
    """The good adapter with one NaN, which every run must find."""
    folder = adapter_copy("bad")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[min(tensors)].flat[0] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("place", "file", "way"), composed(COUNT))
def test_nothing_of_the_folder_runs_or_turns_the_verdict(
    place: str, file: str, way: str, bad_adapter: Path, tmp_path: Path
) -> None:
    room, mark, report = tmp_path / "room", tmp_path / "mark", tmp_path / "report"
    room.mkdir()
    for name, text in FILES[file](mark).items():
        (bad_adapter / name).parent.mkdir(exist_ok=True)
        (bad_adapter / name).write_text(text)
    placed = PLACES[place](bad_adapter, room)
    result = run(placed, WAYS[way](placed.adapter, room), report)
    told = result.stdout + result.stderr
    assert not mark.exists(), told
    assert result.returncode in (1, 2), told
    verdicts = [load_record(path).verdict for path in report.rglob("record.json")]
    assert "PASS" not in verdicts, told
    if result.returncode == 1:
        assert set(verdicts) == {"FAIL"}, told


@pytest.mark.parametrize(
    ("place", "way"),
    [(place, list(WAYS)[number % len(WAYS)]) for number, place in enumerate(PLACES)],
)
def test_a_good_adapter_passes_wherever_it_can_be_kept_apart(
    place: str, way: str, adapter_copy: Callable[[str], Path], tmp_path: Path
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "test_own.py").write_text("def test_own(): pass\n")
    placed = PLACES[place](adapter_copy("good"), room)
    result = run(placed, WAYS[way](placed.adapter, room), tmp_path / "report")
    assert result.returncode == (2 if placed.refused else 0), result.stdout + result.stderr


@pytest.mark.parametrize("name", ["iniconfig", "own_package"])
@pytest.mark.parametrize("way", ["an option", "workers"])
def test_a_folder_that_is_a_package_where_pytest_starts_is_refused(
    name: str, way: str, bad_adapter: Path, tmp_path: Path
) -> None:
    """xdist's processes import from where they are started before any plugin is asked."""
    room, mark = tmp_path / "room", tmp_path / "mark"
    room.mkdir()
    (bad_adapter / "__init__.py").write_text(FILES["a package"](mark)["__init__.py"])
    placed = below(name)(bad_adapter, room)
    result = run(placed, WAYS[way](Path(name), room), tmp_path / "report")
    assert result.returncode == 2
    assert "looks like a Python package" in result.stderr
    assert not mark.exists()


def test_each_place_file_and_way_is_among_the_runs() -> None:
    drawn = list(composed(13))
    known = (list(PLACES), list(FILES), list(WAYS))
    assert [set(names) for names in zip(*drawn, strict=True)] == [set(names) for names in known]
    assert len(set(composed(0))) == len(PLACES) * len(FILES) * len(WAYS)
