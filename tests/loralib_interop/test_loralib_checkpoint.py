import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.loralib_interop import (
    Checkpoint,
    LoralibConfig,
    adapt,
    load_lora_state,
    lora_state_dict,
    read_checkpoint,
    replace_layers,
    save_model,
    write_checkpoint,
)

MASKS = {"qkv_proj": {"q": True, "k": False, "v": True}}


class Harm:
    def __reduce__(self) -> Any:
        return (print, ("harm",))


@pytest.fixture
def saved(model: Any, perturb: Any, tmp_path: Path) -> Path:
    adapt(model, LoralibConfig(rank=2, alpha=3.5, targets=("qkv_proj", "o_proj"), masks=MASKS))
    perturb(model)
    save_model(tmp_path / "lora.safetensors", model)
    return tmp_path / "lora.safetensors"


def test_a_model_is_rebuilt_from_its_checkpoint_alone(
    saved: Path, model: Any, tiny: Any, ids: torch.Tensor
) -> None:
    import copy

    checkpoint, fresh = read_checkpoint(saved), copy.deepcopy(tiny.model)
    assert checkpoint.layers is not None
    replace_layers(fresh, checkpoint.layers)
    assert load_lora_state(fresh, checkpoint.tensors).complete
    with torch.no_grad():
        assert torch.equal(fresh(ids).logits, model(ids).logits)


def test_the_description_has_rank_alpha_and_masks_and_no_file_is_a_pickle(saved: Path) -> None:
    assert sorted(p.name for p in saved.parent.iterdir()) == ["lora.json", "lora.safetensors"]
    layers = json.loads(saved.with_suffix(".json").read_text(encoding="utf-8"))["layers"]
    by_name = {layer["name"].rpartition(".")[2]: layer for layer in layers}
    assert by_name["qkv_proj"]["mask"] == [True, True, False, True]
    assert (by_name["o_proj"]["rank"], by_name["o_proj"]["alpha"]) == (2, 3.5)


def test_writing_again_gives_the_same_bytes(saved: Path) -> None:
    again = saved.with_name("again.safetensors")
    write_checkpoint(again, read_checkpoint(saved))
    assert again.read_bytes() == saved.read_bytes()
    assert again.with_suffix(".json").read_bytes() == saved.with_suffix(".json").read_bytes()


def test_without_a_description_the_layers_are_unknown(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    assert read_checkpoint(saved).layers is None


def test_a_pickle_is_read_only_on_request(saved: Path, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "lora.pt"
    torch.save(lora_state_dict(model), path)
    with pytest.raises(InputError, match=r"can run code when it is read; .*--allow-pickle"):
        read_checkpoint(path)
    read = read_checkpoint(path, allow_pickle=True).tensors
    wanted = load_file(saved)
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("content", [Harm(), {"a.lora_A": Harm()}, [torch.ones(1)], {"a": 1}])
def test_a_pickle_with_more_than_tensors_is_refused_and_not_run(
    content: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, save in (("old.pt", pickle_to), ("new.pt", torch.save)):
        save(content, tmp_path / name)
        with pytest.raises(InputError):
            read_checkpoint(tmp_path / name, allow_pickle=True)
    assert capfd.readouterr().out == ""


def pickle_to(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("content", [b"", b"PK", b"\x10" * 40, b"\x02" + b"\x00" * 7 + b"[]"])
def test_a_damaged_file_is_refused_with_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"layers": {}},
        {"layers": [1]},
        {"layers": [{"name": "a"}]},
        {"layers": "rank"},
        {"layers": "kind"},
        {"layers": "mask"},
    ],
)
def test_a_damaged_description_is_refused(saved: Path, change: dict[str, Any]) -> None:
    path = saved.with_suffix(".json")
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(change.get("layers"), str):
        content["layers"][0][change["layers"]] = {"rank": True, "kind": "Lin", "mask": [1]}[
            change["layers"]
        ]
        change = {}
    path.write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(InputError):
        read_checkpoint(saved)


def test_a_missing_file_and_a_wrong_suffix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        write_checkpoint(tmp_path / "lora.pt", Checkpoint(tensors={}, layers=()))
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors").layers is None
