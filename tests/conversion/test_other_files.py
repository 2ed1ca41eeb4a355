from pathlib import Path

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.conversion.other_files import copy_other_files


def test_what_ships_is_copied_apart_from_what_describes_the_factors(tmp_path: Path) -> None:
    source = tmp_path / "source"
    kept = [
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json",
        "trainer_state.json", "additional_chat_templates/rag.jinja", "notes.txt",
    ]  # fmt: skip
    left = [
        "adapter_config.json", "adapter_model.safetensors", "lora_qa_manifest.json", "README.md",
        "model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapters.safetensors",
        "optimizer.pt", "adapter_model.bin", "model.gguf", "run.py", "setup.sh",
    ]  # fmt: skip
    for name in (*kept, *left):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(f"content of {name}", encoding="utf-8")
    (source / "merges.txt").symlink_to("/etc/hostname")
    target = tmp_path / "target"
    target.mkdir()
    copy_other_files(AdapterFolder.open(source), target)
    files = [path for path in target.rglob("*") if path.is_file() or path.is_symlink()]
    assert sorted(str(path.relative_to(target)) for path in files) == sorted(kept)
    for name in kept:
        assert (target / name).read_text(encoding="utf-8") == f"content of {name}"
