from phi3_lora_qa.adapter.config_problem import ProblemKind


def test_only_an_ignored_field_does_not_reject() -> None:
    assert [kind for kind in ProblemKind if not kind.rejects] == [ProblemKind.IGNORED]
