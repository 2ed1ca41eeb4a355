from dataclasses import replace

import pytest

from phi3_lora_qa.conversion.fit_to_base import adaptable_names, fit_to_base
from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule, exact_alpha
from phi3_lora_qa.errors import InputError
from tests.conversion.foreign import BASE, LINEAR, SPLIT, factors


def adapter(names: tuple[str, ...], rank: int = 4, scaling: float = 2.0) -> PeftAdapter:
    modules = []
    for name in names:
        a, b = factors(name, rank)
        modules.append(PeftModule(name=name, A=a, B=b, scaling=scaling))
    return PeftAdapter(modules=tuple(modules), base="")


def test_fused_names_stay_as_they_are() -> None:
    fused = adapter(LINEAR)
    assert fit_to_base(fused, BASE) is fused


def test_split_names_become_fused_ones_of_one_rank() -> None:
    others = tuple(name for name in LINEAR if name.endswith(("o_proj", "down_proj")))
    found = fit_to_base(adapter((*SPLIT, *others)), BASE)
    assert {module.name for module in found.modules} == set(LINEAR)
    assert {module.rank for module in found.modules} == {12}


def test_split_names_are_kept_for_a_base_with_split_projections() -> None:
    at = BASE.modules["model.layers.0.self_attn.o_proj"]
    name = "model.layers.0.self_attn.q_proj"
    base = replace(
        BASE,
        config={**BASE.config, "model_type": "llama"},
        modules={name: replace(at, name=name)},
    )
    split = adapter((name,))
    assert fit_to_base(split, base) is split
    assert list(adaptable_names(base)) == [name]


def test_a_scaling_that_no_alpha_gives_is_exact_at_a_larger_rank() -> None:
    scaling = next(
        n / 10 + 0.01 for n in range(1, 10_000) if (n / 10 + 0.01) * 49 / 49 != n / 10 + 0.01
    )
    (module,) = fit_to_base(adapter(LINEAR[:1], 49, scaling), BASE).modules
    assert exact_alpha(scaling, module.rank, module.name) / module.rank == scaling


def test_a_module_that_the_base_lacks_is_refused() -> None:
    wrong = adapter(LINEAR[:1])
    wrong = replace(wrong, modules=(replace(wrong.modules[0], name="model.layers.0.x_proj"),))
    with pytest.raises(InputError, match="no such layer"):
        fit_to_base(wrong, BASE)


def test_the_names_of_a_fused_base_include_its_parts() -> None:
    assert set(adaptable_names(BASE)) == {*LINEAR, *SPLIT, "lm_head"}
