"""The linter and peft agree: peft loads every accepted adapter completely, and keeps the base.

Adapters that peft trained get random configs and random damage. peft's side is `attach`, which
compares every tensor of the file with the loaded one, and every weight of the base with its old
value. Faults that only later stages can detect (a flag that changes the scaling) are accepted.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.models.attach import attach
from tests.variants import FUSED, VARIANTS, train

pytestmark = pytest.mark.slow

DRAWS, CASES = 8, 60

CONFIGS: dict[str, list[Any]] = {
    "r": [1, 2, 4, 8],
    "lora_alpha": [1, 8, -8, 0.5, 0],
    "use_rslora": [True, False],
    "use_dora": [True, False],
    "lora_bias": [True, False],
    "bias": ["none", "all", "lora_only"],
    "init_lora_weights": [True, False, None, "gaussian", "orthogonal", "mica", "eva", "pissa"],
    "target_modules": [
        FUSED, ["qkv_proj"], ["q_proj", "o_proj"], ["lm_head"], ["embed_tokens"], [], None,
        "all-linear", ".*proj", ["model.layers.0.mlp.down_proj"],
    ],
    "exclude_modules": [None, [], ["o_proj"], ".*o_proj"],
    "modules_to_save": [None, [], ["lm_head"], ["norm"], ["mlp"]],
    "layers_to_transform": [None, [], 0, [1], [7]],
    "layers_pattern": [None, "", "layers", ["layers"]],
    "rank_pattern": [{}, {"o_proj": 2}, {"^model.*": 4}, {"nothing": 3}],
    "alpha_pattern": [{}, {"qkv_proj": 3}, {"nothing": 1}],
    "trainable_token_indices": [None, [], [3, 5], {"embed_tokens": [3]}, {"lm_head": [1]}],
    "target_parameters": [None, [], ["mlp.down_proj.weight"], ["weight"]],
    "use_bdlora": [None, False, {"nblocks": 2, "target_modules_bd_a": ["o_proj"]}],
    "velora_config": [None, {}, {"num_groups": 4}],
    "monteclora_config": [None, {"num_samples": 4}],
    "ensure_weight_tying": [True, False],
    "lora_dropout": [0.0, 0.5],
    "task_type": ["CAUSAL_LM", None, "SEQ_CLS"],
    "peft_type": ["LORA", "IA3"],
    "arrow_config": [None, {}],
    "kasa_config": [None, {}],
    "layer_replication": [None, [], [[0, 2], [0, 2]]],
    "runtime_config": [None, {}],
    "loftq_config": [None, {}, {"loftq_bits": 4}],
    "eva_config": [None, {"rho": 2.0}],
}  # fmt: skip

Tensors = dict[str, Any]
DAMAGE: dict[str, Callable[[Tensors, str], object]] = {
    "drop": lambda tensors, name: tensors.pop(name),
    "transpose": lambda tensors, name: tensors.update(
        {name: tensors[name].transpose(0, -1).contiguous()}
    ),
    "halve": lambda tensors, name: tensors.update({name: tensors[name][: len(tensors[name]) // 2]}),
    "to half": lambda tensors, name: tensors.update({name: tensors[name].half()}),
    "to int": lambda tensors, name: tensors.update({name: tensors[name].char()}),
    "move": lambda tensors, name: tensors.update(
        {name.replace("layers.0", "layers.9"): tensors.pop(name)}
    ),
    "double": lambda tensors, name: tensors.update({name.partition(".")[2]: tensors[name].clone()}),
}


@pytest.fixture(scope="module")
def trained(model: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("trained")
    for name, options in VARIANTS.items():
        train(model, folder / name, **options)
    return sorted(folder.iterdir())


def draw(source: Path, folder: Path, chosen: random.Random) -> str:
    """Copy an adapter, change its config and perhaps a tensor; return a description."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    path = folder / "adapter_config.json"
    names = chosen.sample(sorted(CONFIGS), chosen.choice([0, 1, 1, 2]))
    changes = {name: chosen.choice(CONFIGS[name]) for name in names}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if chosen.random() > 0.4:
        return f"{source.name} {changes}"
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    name, kind = chosen.choice(sorted(tensors)), chosen.choice(sorted(DAMAGE))
    DAMAGE[kind](tensors, name)
    save_file(tensors, weights, metadata={"format": "pt"})
    return f"{source.name} {changes} {kind} {name}"


@pytest.mark.parametrize("seed", range(DRAWS))
def test_peft_loads_every_accepted_adapter_completely(
    seed: int, model: Any, model_files: BaseFiles, trained: list[Path], tmp_path: Path
) -> None:
    import torch

    chosen, accepted = random.Random(seed), 0
    for number in range(CASES):
        folder = tmp_path / str(number)
        what = draw(chosen.choice(trained), folder, chosen)
        report = lint(AdapterFolder.open(folder), model_files)
        assert not any(f.rule == "lint-internal-error" for f in report.findings), what
        if not report.accepted:
            continue
        accepted += 1
        try:
            tuned = attach(model, folder)
        except AdapterError as error:
            pytest.fail(f"accepted, but {what}: {error}")
        with torch.inference_mode():
            assert tuned(torch.arange(3, 19)[None]).logits.isfinite().all(), what
    assert accepted >= CASES / 5
