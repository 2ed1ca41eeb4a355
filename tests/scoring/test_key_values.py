"""Cells: what is written is read, by its own row, and nothing else is touched."""

from phi3_lora_qa.scoring.key_values import KeyValues


def written(store: KeyValues, rows: slice | list[int], cells: object, value: float) -> object:
    """Write one number into cells of one layer; return the keys that attention would read."""
    import torch

    index = torch.as_tensor(cells)
    new = torch.full((len(index), 2, index.shape[1], 3), value)
    store.aim(rows, index, int(index.max()) + 1)
    keys, values = store.update(new, -new, 0)
    assert torch.equal(keys, -values)
    return keys


def test_rows_write_at_their_own_ends() -> None:
    store = KeyValues(2, 5)
    written(store, slice(0, 2), [[0, 1], [0, 1]], 1.0)
    keys = written(store, slice(0, 2), [[1], [2]], 2.0)
    assert keys[:, 0, :, 0].tolist() == [[1.0, 2.0, 0.0], [1.0, 1.0, 2.0]]  # type: ignore[index]


def test_a_list_of_rows_may_leave_them_as_they_were() -> None:
    import torch

    store = KeyValues(2, 3)
    written(store, slice(0, 2), [[0], [0]], 1.0)
    new = torch.full((3, 2, 1, 3), 5.0)
    store.aim([1, 1, 0], torch.ones(3, 1, dtype=torch.int64), 2, keep=False)
    keys, _ = store.update(new, new, 0)
    assert keys[:, 0, :, 0].tolist() == [[1.0, 5.0]] * 3
    kept = written(store, slice(0, 2), [[3], [3]], 9.0)
    assert kept[:, 0, :, 0].tolist() == [[1.0, 0.0, 0.0, 9.0]] * 2  # type: ignore[index]


def test_a_list_of_rows_is_kept_where_asked() -> None:
    store = KeyValues(3, 3)
    written(store, slice(0, 3), [[0]] * 3, 1.0)
    keys = written(store, [2, 0], [[1], [2]], 4.0)
    assert keys[:, 0, :, 0].tolist() == [[1.0, 4.0, 0.0], [1.0, 0.0, 4.0]]  # type: ignore[index]
    all_of_it = written(store, slice(0, 3), [[3]] * 3, 7.0)
    assert all_of_it[:, 0, 1:3, 0].tolist() == [[0, 4], [0, 0], [4, 0]]  # type: ignore[index]


def test_a_prefix_begins_other_rows_and_a_moved_row_is_whole() -> None:
    first = KeyValues(1, 4)
    written(first, slice(0, 1), [[0, 1, 2]], 3.0)
    store = KeyValues(2, 4)
    store.begin(1, first.prefix(0, 2))
    store.move(1, 0)
    keys = written(store, slice(0, 2), [[2], [3]], 8.0)
    assert keys[:, 1, :, 2].tolist() == [[3, 3, 8, 0], [3, 3, 0, 8]]  # type: ignore[index]
