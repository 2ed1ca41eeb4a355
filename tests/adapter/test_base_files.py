import json
import os
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.base_modules import ModuleKind
from phi3_lora_qa.errors import BaseModelError
from tests.adapter.packing import pack
from tests.adapter.tiny_base import HIDDEN, MIDDLE, VOCABULARY, base_tensors, write_base


def test_modules_are_read_from_the_headers(tmp_path: Path) -> None:
    base = BaseFiles.open(write_base(tmp_path))
    qkv = base.modules["model.layers.1.self_attn.qkv_proj"]
    assert (qkv.kind, qkv.inputs, qkv.outputs) == (ModuleKind.LINEAR, HIDDEN, 64)
    table = base.modules["model.embed_tokens"]
    assert (table.kind, table.inputs, table.outputs) == (ModuleKind.EMBEDDING, VOCABULARY, HIDDEN)
    assert base.modules["model.norm"].kind is ModuleKind.NORM
    assert base.vocabulary == VOCABULARY


def test_without_weights_the_same_modules_are_derived_from_the_config(tmp_path: Path) -> None:
    whole = BaseFiles.open(write_base(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    bare = BaseFiles.open(tmp_path)
    assert dict(bare.modules) == dict(whole.modules)
    assert bare.tensor("lm_head") is None


def test_phi3_minis_sizes_are_derived_from_its_config(tmp_path: Path) -> None:
    config = {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "vocab_size": 32064,
        "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 32,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    modules = BaseFiles.open(tmp_path).modules
    sizes = {m.leaf: (m.outputs, m.inputs) for m in modules.values() if ".31." in m.name}
    assert sizes["qkv_proj"] == (9216, 3072)
    assert sizes["gate_up_proj"] == (16384, 3072)
    assert sizes["down_proj"] == (3072, 8192)


def test_shards_are_found_by_the_index_and_through_links(tmp_path: Path) -> None:
    write_base(tmp_path)
    tensors = base_tensors()
    (tmp_path / "model.safetensors").unlink()
    half = len(tensors) // 2
    names = list(tensors)
    table: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:])):
        blob = tmp_path / f"blob{number}"
        blob.write_bytes(pack({n: tensors[n] for n in part}))
        (tmp_path / f"model-{number}.safetensors").symlink_to(blob)
        table |= dict.fromkeys(part, f"model-{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    base = BaseFiles.open(tmp_path)
    place = base.tensor("model.layers.1.mlp.down_proj")
    assert place is not None
    assert place[0].tensor(place[1].name).shape == (HIDDEN, MIDDLE)
    index.write_text(json.dumps({"weight_map": {"a": "../../x"}}))
    with pytest.raises(BaseModelError, match="must list weight files in the same folder"):
        BaseFiles.open(tmp_path)


def test_a_tied_head_has_the_sizes_of_the_table(tmp_path: Path) -> None:
    write_base(tmp_path, tie_word_embeddings=True)
    tensors = base_tensors()
    del tensors["lm_head.weight"]
    (tmp_path / "model.safetensors").write_bytes(pack(tensors))
    head = BaseFiles.open(tmp_path).modules["lm_head"]
    assert (head.inputs, head.outputs) == (HIDDEN, VOCABULARY)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "gpt2"}'),
        ("config.json", b"[]"),
        ("model.safetensors", b"damaged"),
        ("model.safetensors", pack({})),
    ],
)
def test_a_folder_that_is_not_a_phi3_is_an_error(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    write_base(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BaseModelError) as caught:
        BaseFiles.open(tmp_path)
    assert "; " in str(caught.value)


def test_a_config_without_sizes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "phi3", "hidden_size": true}')
    with pytest.raises(BaseModelError, match=r"not valid for a Phi-3: .*; download it again"):
        BaseFiles.open(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "zero", "loop"])
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"]
)
def test_a_file_that_is_not_regular_is_an_error_and_does_not_block(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = write_base(tmp_path) / name
    if name.endswith("index.json"):
        (tmp_path / "model.safetensors").unlink()
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else path)
    with pytest.raises(BaseModelError, match=r"cannot read .*; pass a folder with a config.json"):
        BaseFiles.open(tmp_path).read_bytes("tokenizer.json", 1 << 20)
