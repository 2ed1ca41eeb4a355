"""A description of a foreign format makes one finding."""

from phi3_lora_qa.adapter.identity import foreign_format


def test_every_fix_is_a_part_of_a_sentence() -> None:
    fixes = {n: v for n, v in vars(foreign_format).items() if n.endswith(("_FIX", "TRAIN_LORA"))}
    assert len(fixes) > 5
    for name, fix in fixes.items():
        assert fix[0].islower(), name
        assert fix[-1] not in ".;", name
