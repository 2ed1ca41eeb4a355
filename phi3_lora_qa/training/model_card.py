"""The model card, README.md in the adapter folder: the base, the recipe and the losses."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from phi3_lora_qa.data.training_data import TrainingData
from phi3_lora_qa.training.job import Job, TrainingOutcome, TrainResult

_CARD = """\
---
base_model: {base_yaml}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- phi3-lora-qa
---

# {name}

A LoRA adapter for `{base}`, trained with phi3-lora-qa.

| | |
|---|---|
| base fingerprint | `{fingerprint}` |
| data sha256 | `{data_sha256}` |
| rows | {train_rows} to train, {validation_rows} to validate |
| trained parameters | {parameters:,} |
| steps | {steps} in {seconds:.0f} s |
| validation loss | {before:.4f} before, {after:.4f} after |
| training loss (mean) | {train_loss:.4f} |

Losses are in nats per learned token. The learned tokens are the assistant's turns with their stop
tokens, unless the recipe has `assistant_only_loss: false`.

## Is it good enough?

A lower loss does not show that. Gate the adapter against its base:

```sh
pytest --phi3-adapter=PATH_OF_THIS_FOLDER
```

## Recipe

```json
{recipe}
```
{notes}
## Losses

| step | rows | loss |
|---|---|---|
{losses}

## Versions

{versions}
"""


def model_card(
    outcome: TrainingOutcome,
    result: TrainResult,
    job: Job,
    data: TrainingData,
    versions: Mapping[str, str],
) -> str:
    """Return the card as Markdown, with the hub's metadata as front matter."""
    recipe = {
        "training": {**job.training.values, "seed": outcome.seed},
        "peft": dict(job.peft.values),
    }
    if job.is_loralib:
        recipe["engine"] = asdict(job.config.engine)
    if job.quantization.values:
        recipe["quantization"] = dict(job.quantization.values)
    notes = "".join(f"- {note}\n" for note in result.notes)
    return _CARD.format(
        name=result.adapter.name,
        base=job.base.id,
        base_yaml=json.dumps(job.base.id, ensure_ascii=False),
        fingerprint=outcome.base_fingerprint,
        data_sha256=data.sha256,
        train_rows=len(data.train),
        validation_rows=len(data.validation),
        parameters=outcome.trainable_parameters,
        steps=outcome.steps,
        seconds=result.seconds,
        before=outcome.loss_before,
        after=outcome.loss_after,
        train_loss=outcome.train_loss,
        recipe=json.dumps(recipe, indent=2, sort_keys=True, default=str, ensure_ascii=False),
        notes=f"\n{notes}" if notes else "",
        losses="\n".join(f"| {e.step} | {e.kind} | {e.loss:.4f} |" for e in outcome.log),
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
    )
