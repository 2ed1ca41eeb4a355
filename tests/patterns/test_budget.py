import pytest

from phi3_lora_qa.patterns.budget import Budget
from phi3_lora_qa.patterns.syntax import PatternError


def test_a_budget_ends_the_work_when_nothing_is_left() -> None:
    budget = Budget(10)
    budget.spend(10)
    with pytest.raises(PatternError, match="too long to match"):
        budget.spend(1)
