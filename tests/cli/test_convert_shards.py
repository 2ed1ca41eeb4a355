"""``convert join-shards``: the command that lint names, and what it refuses."""

from pathlib import Path

import pytest

from tests.adapter.adapters import plain
from tests.adapter.shards import save_shards
from tests.cli.builders import run


def test_the_fix_that_lint_names_gives_an_accepted_adapter(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save_shards(plain(), source)
    found = run("lint", source)
    assert found.exit_code == 1
    assert "phi3-lora-qa convert join-shards ADAPTER -o DIR" in found.stdout
    done = run("convert", "join-shards", source, "-o", out)
    assert done.exit_code == 0
    assert f"wrote adapter {out}, 16 tensors in one file" in done.stdout
    assert run("lint", out).exit_code == 0
    assert run("convert", "join-shards", source, "-o", out).exception
    assert run("convert", "join-shards", source, "-o", out, "--force").exit_code == 0


def test_nothing_is_written_if_a_shard_is_missing(tmp_path: Path) -> None:
    names = save_shards(plain(), tmp_path / "in")
    (tmp_path / "in" / names[0]).unlink()
    done = run("convert", "join-shards", tmp_path / "in", "-o", tmp_path / "out")
    assert "1 of the 3 files of the weights are missing" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_transformers_saves_in_shards_is_loaded_by_peft_after_joining(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from phi3_lora_qa.models.registry import bundled

    base, adapter = str(bundled("tiny") / "base"), bundled("tiny") / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    model.load_adapter(str(adapter))
    model.save_pretrained(str(tmp_path / "in"), max_shard_size="20KB")
    assert len(list((tmp_path / "in").glob("adapter_model-*.safetensors"))) > 1
    assert run("convert", "join-shards", tmp_path / "in", "-o", tmp_path / "out").exit_code == 0
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out")
    )
    saved = {n: p for n, p in loaded.named_parameters() if "lora_" in n}
    expected = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert len(saved) == len(expected) > 0
    for name, parameter in expected.items():
        assert saved[f"base_model.model.{name}"].equal(parameter)
