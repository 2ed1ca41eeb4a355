import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.report import read_items, write_items
from tests.report.builders import item, items

TEXT = st.text(st.characters(categories=None, exclude_categories=["Cs"]), max_size=40)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = tuple(items(12))
    write_items(rows, tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet") == rows


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, TEXT, st.floats(allow_nan=False))
def test_any_text_and_any_number_come_back(
    tmp_path: Path, answer: str, prompt: str, loss: float
) -> None:
    row = item(1, base_answer=answer, prompt=prompt, tuned_loss=loss)
    write_items([row], tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet") == (row,)


def test_half_a_surrogate_pair_stays_readable(tmp_path: Path) -> None:
    write_items([item(1, tuned_answer="a\ud800\x00b")], tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet")[0].tuned_answer == "a\\ud800\x00b"


def test_a_score_that_one_row_lacks_is_lacking_again(tmp_path: Path) -> None:
    rows = [item(1, scores={"f1": (0.5, math.nan)}), item(2, scores={})]
    write_items(rows, tmp_path / "items.parquet")
    first, second = read_items(tmp_path / "items.parquet")
    assert first.scores["f1"][0] == 0.5
    assert math.isnan(first.scores["f1"][1])
    assert second.scores == {}


def test_a_table_from_before_there_were_clusters_can_be_read(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "items.parquet"
    write_items([item(1, cluster="page 3", extras="{}")], path)
    assert (read_items(path)[0].cluster, read_items(path)[0].extras) == ("page 3", "{}")
    pd.read_parquet(path).drop(columns=["cluster", "extras"]).to_parquet(path)
    assert read_items(path) == (item(1),)


def test_a_person_finds_the_columns_by_name(tmp_path: Path) -> None:
    import pandas as pd

    write_items(items(3), tmp_path / "items.parquet")
    frame = pd.read_parquet(tmp_path / "items.parquet")
    assert {"id", "tuned_answer", "rouge_l.base", "rouge_l.tuned"} <= set(frame.columns)


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense", "other", "tokens"])
def test_what_is_no_table_of_items_is_refused_with_the_mend(
    tmp_path: Path, content: bytes | str
) -> None:
    path = tmp_path / "items.parquet"
    if isinstance(content, str):
        import pandas as pd

        write_items([item(1)], path)
        frame = pd.read_parquet(path).assign(tokens=math.inf)
        (frame if content == "tokens" else frame[[]].assign(other=1)).to_parquet(path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"gate the adapter again .*report without items$"):
        read_items(path)
