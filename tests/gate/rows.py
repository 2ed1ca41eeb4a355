"""Builders of items, item rows and limits for the tests of comparisons."""

import numpy as np

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.metrics import metrics_to_measure
from phi3_lora_qa.record import ItemRow, Turn

METRICS = metrics_to_measure((), ())
"""The metrics that are measured by default."""

JUDGED = [info for info in METRICS if not info.relative]


def row(number: int, *, loss: float = 0.0, right: float = 1.0, group: str = "general") -> ItemRow:
    """One item: the loss changed by ``loss``, the tuned answer is as correct as ``right``."""
    level = 1.0 + number % 7
    scores = dict.fromkeys((info.name for info in METRICS if info.name != "loss"), (1.0, right))
    return ItemRow(
        id=f"{group}:{number}",
        group=group,
        prompt=(Turn(role="user", content="?"),),
        reference="yes",
        base_answer="yes",
        tuned_answer="yes" if right else "no",
        base_loss=level,
        tuned_loss=level + loss,
        tokens=3,
        scores=scores,
    )


def limit(metric: str = "loss", value: float = 0.1, against: str = "base") -> Limit:
    return Limit(group="general", metric=metric, rule="no_worse_than", value=value, against=against)


def noisy(change: float, n: int = 40, seed: int = 0) -> list[ItemRow]:
    noise = np.random.default_rng(seed).normal(change, 0.05, size=n)
    return [row(i, loss=float(noise[i])) for i in range(n)]


def suite_items(n: int, per_cluster: int = 0) -> list[Item]:
    """Different questions of the group ``target``, in clusters of a size where it is given."""
    return [
        Item(
            id=str(number),
            prompt=(Message(role="user", content=f"What is {number}?"),),
            reference="Six",
            cluster=f"page {number // per_cluster}" if per_cluster else "",
        )
        for number in range(n)
    ]
