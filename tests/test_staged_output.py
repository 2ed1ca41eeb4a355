from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.staged_output import staged_output


def write(path: Path, text: str = "new") -> None:
    path.mkdir()
    (path / "adapter_config.json").write_text(text, encoding="utf-8")


def test_a_folder_and_files_appear_together_at_the_end(tmp_path: Path) -> None:
    with staged_output(tmp_path / "a", tmp_path / "b.json") as staging:
        write(staging / "a")
        (staging / "b.json").write_text("{}", encoding="utf-8")
        assert not (tmp_path / "a").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b.json"]


def test_an_error_leaves_everything_unchanged(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    with (
        pytest.raises(FileExistsError),
        staged_output(tmp_path / "a", tmp_path / "b", force=True) as staging,
    ):
        write(staging)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8") == "old"


def test_an_existing_adapter_is_replaced_only_with_force(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    with (
        pytest.raises(InputError, match=r"already contains files; .* pass --force"),
        staged_output(tmp_path / "a"),
    ):
        pass
    with staged_output(tmp_path / "a", force=True) as staging:
        write(staging / "a")
    assert (tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_with_other_files_is_never_replaced_and_an_empty_one_is_used(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()
    with staged_output(tmp_path / "mine") as staging:
        (staging / "mine").mkdir()
        (staging / "mine" / "notes.txt").write_text("x", encoding="utf-8")
    with (
        pytest.raises(InputError, match="contains files but no adapter"),
        staged_output(tmp_path / "mine", force=True),
    ):
        pass
    assert (tmp_path / "mine" / "notes.txt").is_file()


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with (
        pytest.raises(InputError, match=r"cannot write to .*; choose another path"),
        staged_output(tmp_path / "file" / "a"),
    ):
        pass


def test_if_the_new_folder_is_missing_the_old_one_is_restored(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    with pytest.raises(FileNotFoundError), staged_output(tmp_path / "a", force=True):
        pass
    assert (tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("content", [True, False])
def test_a_link_to_a_folder_is_replaced_and_its_target_kept(tmp_path: Path, content: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    if content:
        (tmp_path / "elsewhere" / "adapter_config.json").write_text("old", encoding="utf-8")
    (tmp_path / "a").symlink_to("elsewhere")
    with staged_output(tmp_path / "a", force=True) as staging:
        write(staging / "a")
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8") == "new"
    assert (tmp_path / "elsewhere" / "adapter_config.json").exists() is content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "elsewhere"]


def test_the_messages_name_the_setting_and_the_way_to_replace(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    words = {"name": "output.dir", "how_to_replace": "set output.overwrite = true"}
    with (
        pytest.raises(InputError, match=r"^output\.dir .*, or set output\.overwrite = true$"),
        staged_output(tmp_path / "a", **words),  # type: ignore[arg-type]
    ):
        pass
