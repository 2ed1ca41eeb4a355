"""Bounds the work that untrusted patterns may cause."""

from dataclasses import dataclass

from phi3_lora_qa.patterns.syntax import PatternError

MAX_STEPS = 2_000_000


@dataclass(slots=True)
class Budget:
    """The number of steps that all patterns sharing it may take together: some seconds."""

    left: int = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Spend some of the steps that are left.

        Raises:
            PatternError: No steps are left.
        """
        self.left -= steps
        if self.left < 0:
            raise PatternError("the patterns take too long to match")
