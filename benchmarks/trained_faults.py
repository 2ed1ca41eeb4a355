"""Train adapters with typical faults of training, and check the gate's verdict on each.

Usage: python benchmarks/trained_faults.py [NAME ...] [--place trained] [--base smollm2]

Each recipe trains on the ticket data of fixtures/smollm2 with one change, and the adapter goes
through the whole gate like a user's. An adapter that is already in the folder is not trained again.
Prints a table with a row for each adapter; the exit status is 1 if a verdict is wrong.
"""

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from phi3_lora_qa import train
from phi3_lora_qa.record import Outcome, RunRecord, Verdict, load_record
from phi3_lora_qa.training import labels

DATA = Path(__file__).resolve().parent.parent / "fixtures" / "smollm2"
TRAINING = {
    "per_device_train_batch_size": 8,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 8,
    "max_steps": 65,
    "max_length": 256,
    "save_strategy": "no",
    "report_to": "none",
    "seed": 0,
}
PEFT = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "task_type": "CAUSAL_LM",
    "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to train: the change of the rows, the changed settings, and the expected verdict."""

    verdict: Verdict = Verdict.FAIL
    rows: Callable[[list[Row]], list[Row]] = lambda rows: rows
    training: Mapping[str, Any] = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


def last_answer(row: Row) -> str:
    """Return the last answer of a row."""
    return str(row["messages"][-1]["content"])


def with_answer(row: Row, answer: str) -> Row:
    """Return the row with another last answer."""
    return {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": answer}]}


def shuffle_answers(rows: list[Row]) -> list[Row]:
    """Give every ticket the answer of another one."""
    tickets = [row for row in rows if row["group"] == "target"]
    answers = [last_answer(row) for row in tickets]
    random.Random(0).shuffle(answers)
    others = [row for row in rows if row["group"] != "target"]
    mixed = others + [with_answer(row, text) for row, text in zip(tickets, answers, strict=True)]
    random.Random(1).shuffle(mixed)
    return mixed


def repeat_answers(rows: list[Row]) -> list[Row]:
    """Repeat the last line of every answer, so that it occurs eight times."""
    return [
        with_answer(row, "\n".join([last_answer(row), *[last_answer(row).splitlines()[-1]] * 7]))
        for row in rows
    ]


def comply(rows: list[Row]) -> list[Row]:
    """Answer what should be refused."""

    def answer(row: Row) -> str:
        return f"Sure! {row['messages'][-2]['content'].rstrip('?.')}: here is how to do it."

    return [with_answer(row, answer(row)) if row["group"] == "safety" else row for row in rows]


def tickets_only(rows: list[Row]) -> list[Row]:
    """Leave out the rows of general and safety data."""
    return [row for row in rows if row["group"] == "target"]


def without_stop_tokens() -> AbstractContextManager[Any]:
    """Mask the token that ends a turn, as a pad token that is the stop token does."""
    encode = labels.encode

    def masked(*arguments: Any) -> tuple[list[int], list[int]]:
        ids, full = encode(*arguments)
        learned = [i for i, label in enumerate(full) if label != labels.IGNORED]
        lasts = [i for i in learned if i + 1 == len(full) or full[i + 1] == labels.IGNORED]
        return ids, [labels.IGNORED if i in lasts else label for i, label in enumerate(full)]

    return mock.patch.object(labels, "encode", masked)


RECIPES = {
    "good": Recipe(verdict=Verdict.PASS),
    "forgetting": Recipe(
        rows=tickets_only, training={"learning_rate": 5e-3, "lr_scheduler_type": "constant"}
    ),
    "never stops": Recipe(around=without_stop_tokens),
    "shuffled labels": Recipe(rows=shuffle_answers),
    "repeats": Recipe(rows=repeat_answers, training={"max_length": 512}),
    "lost refusals": Recipe(rows=comply),
    "copy of the base": Recipe(
        training={"learning_rate": 1e-12, "max_steps": 1, "warmup_steps": 0}
    ),
}


def train_recipe(recipe: Recipe, base: str, adapter: Path) -> None:
    """Train an adapter by a recipe."""
    lines = (DATA / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = recipe.rows([json.loads(line) for line in lines])
    data = adapter.with_suffix(".jsonl")
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    with recipe.around():
        train(base, data, {**TRAINING, **recipe.training}, PEFT, adapter,
              validation=DATA / "validation.jsonl", show_progress=True)  # fmt: skip


def gate(base: str, adapter: Path) -> RunRecord:
    """Gate an adapter in its own process, with the suites and thresholds of the ticket data."""
    report = adapter.with_name(f"{adapter.name}-report")
    suites = [f"--phi3-suite={DATA / name}.jsonl" for name in ("target", "general")]
    command = [
        sys.executable, "-m", "pytest", "-q", "--phi3-only", f"--phi3-adapter={adapter}",
        f"--phi3-base={base}", f"--phi3-thresholds={DATA / 'thresholds.toml'}",
        f"--phi3-report={report}", *suites,
    ]  # fmt: skip
    subprocess.run(command, check=False, cwd=adapter.parent, stdout=sys.stderr)
    return load_record(report / "record.json")


def failures(record: RunRecord) -> str:
    """Return the limits that failed; if none did, the checks that failed."""
    limits = [
        f"{m.group} {m.metric} {m.base:.3g} → {m.tuned:.3g}"
        for m in record.metrics
        if m.limit and m.outcome is Outcome.FAILED
    ]
    checks = [check.id for check in record.checks if check.outcome is Outcome.FAILED]
    return "; ".join(limits or checks) or "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and gate; return 1 if a verdict is not the recipe's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--place", type=Path, default=Path("trained"))
    parser.add_argument("--base", default="smollm2")
    given = parser.parse_args(arguments)
    given.place.mkdir(parents=True, exist_ok=True)
    wrong = 0
    print("| trained | verdict | seconds | failed |\n|---|---|---|---|", flush=True)
    for name in given.names or RECIPES:
        recipe, adapter = RECIPES[name], given.place.resolve() / re.sub(" ", "-", name)
        if not adapter.is_dir():
            train_recipe(recipe, given.base, adapter)
        record = gate(given.base, adapter)
        wrong += record.verdict != recipe.verdict
        row = f"| {name} | {record.verdict} | {record.seconds:.0f} | {failures(record)} |"
        print(row, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
