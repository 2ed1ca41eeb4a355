import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3_lora_qa.data import item_table
from phi3_lora_qa.data.item_table import items_as_parquet, read_items
from phi3_lora_qa.data.parquet_columns import UnsupportedParquetError, read_columns
from phi3_lora_qa.errors import InputError, MissingDependencyError
from phi3_lora_qa.record import Turn
from tests.report.builders import item, items

ANY_TEXT = st.text(st.characters(categories=None), max_size=40)
TEXT = st.text(st.characters(categories=None, exclude_categories=["Cs"]), max_size=40)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = tuple(items(12))
    (tmp_path / "items.parquet").write_bytes(items_as_parquet(rows))
    assert read_items(tmp_path / "items.parquet") == rows


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEXT, st.lists(st.tuples(TEXT, ANY_TEXT)), st.floats(allow_nan=False))
def test_any_text_and_any_number_come_back(
    tmp_path: Path, answer: str, turns: list[tuple[str, str]], loss: float
) -> None:
    prompt = tuple(Turn(role=role, content=text) for role, text in turns)
    row = item(1, base_answer=answer, prompt=prompt, tuned_loss=loss)
    (tmp_path / "items.parquet").write_bytes(items_as_parquet([row]))
    assert read_items(tmp_path / "items.parquet") == (row,)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(TEXT, st.floats(), st.floats(allow_nan=False)), min_size=1))
def test_a_table_that_pandas_saved_again_has_the_same_rows(
    tmp_path: Path, cells: list[tuple[str, float, float]]
) -> None:
    import pandas as pd

    rows = [
        item(i, base_answer=text, tuned_loss=loss, scores={"f1": (0.5, score), f"m{i % 2}": (1, 0)})
        for i, (text, score, loss) in enumerate(cells)
    ]
    path = tmp_path / "items.parquet"
    path.write_bytes(items_as_parquet(rows))
    expected = repr(read_items(path))  # NaN is not equal to itself
    pd.read_parquet(path).to_parquet(path)
    with pytest.raises(UnsupportedParquetError):
        read_columns(path.read_bytes())
    assert repr(read_items(path)) == expected


def test_without_pyarrow_a_file_of_another_program_needs_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    path = tmp_path / "items.parquet"
    path.write_bytes(items_as_parquet(items(3)))
    pd.read_parquet(path).to_parquet(path, compression="zstd")
    assert read_items(path) == tuple(items(3))
    monkeypatch.setattr(item_table, "is_installed", lambda module: False)
    with pytest.raises(MissingDependencyError, match=r"missing values.*pip install .*\[gate\]"):
        read_items(path)
    path.write_bytes(items_as_parquet(items(3))[:-100])
    with pytest.raises(InputError, match="run the gate again"):
        read_items(path)


def test_a_lone_surrogate_stays_readable(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(
        items_as_parquet([item(1, tuned_answer="a\ud800\x00b")])
    )
    assert read_items(tmp_path / "items.parquet")[0].tuned_answer == "a\\ud800\x00b"


def test_a_score_that_one_row_lacks_is_still_missing_after_reading(tmp_path: Path) -> None:
    rows = [item(1, scores={"f1": (0.5, math.nan)}), item(2, scores={})]
    (tmp_path / "items.parquet").write_bytes(items_as_parquet(rows))
    first, second = read_items(tmp_path / "items.parquet")
    assert first.scores["f1"][0] == 0.5
    assert math.isnan(first.scores["f1"][1])
    assert second.scores == {}


@pytest.mark.parametrize("column", ["cluster", "extras", "base_error", "tuned_error"])
def test_a_table_of_an_earlier_version_is_refused(tmp_path: Path, column: str) -> None:
    """It belongs to a record of an earlier version, which is not read either."""
    import pandas as pd

    path = tmp_path / "items.parquet"
    path.write_bytes(
        items_as_parquet([item(1, cluster="page 3", extras="{}", tuned_error="no loss")])
    )
    (row,) = read_items(path)
    assert (row.cluster, row.extras, row.tuned_error, row.failed) == (
        "page 3",
        "{}",
        "no loss",
        True,
    )
    pd.read_parquet(path).drop(columns=[column]).to_parquet(path)
    with pytest.raises(InputError, match=f"{column}.*run the gate again"):
        read_items(path)


@pytest.mark.parametrize(
    "prompt",
    [
        "user: Why?",
        "3",
        "[3]",
        "[[]]",
        '[{"role": "user"}]',
        '[{"role": 1, "content": "?"}]',
        "[" * 9999,
    ],
)
def test_a_prompt_that_is_not_a_list_of_turns_is_refused(tmp_path: Path, prompt: str) -> None:
    import pandas as pd

    path = tmp_path / "items.parquet"
    path.write_bytes(items_as_parquet([item(1)]))
    pd.read_parquet(path).assign(prompt=prompt).to_parquet(path)
    with pytest.raises(InputError, match="cannot read the items"):
        read_items(path)


def test_a_person_finds_the_columns_by_name(tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "items.parquet").write_bytes(items_as_parquet(items(3)))
    frame = pd.read_parquet(tmp_path / "items.parquet")
    assert {"id", "tuned_answer", "rouge_l.base", "rouge_l.tuned"} <= set(frame.columns)


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense", "other", "tokens"])
def test_a_file_that_is_not_a_table_of_items_is_refused_with_the_fix(
    tmp_path: Path, content: bytes | str
) -> None:
    path = tmp_path / "items.parquet"
    if isinstance(content, str):
        import pandas as pd

        path.write_bytes(items_as_parquet([item(1)]))
        frame = pd.read_parquet(path).assign(tokens=math.inf)
        (frame if content == "tokens" else frame[[]].assign(other=1)).to_parquet(path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"run the gate again .*report without items$"):
        read_items(path)
