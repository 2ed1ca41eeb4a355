"""Export stage: what is served, saved and loaded by itself, answers as the tuned model does."""

import tempfile
from pathlib import Path

import numpy as np

from phi3_lora_qa.adapter.safetensors_file import open_path
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, Held, check_of
from phi3_lora_qa.models.loading import LoadedBase, load_tokenizer, weight_files
from phi3_lora_qa.models.registry import read_base_config, resolve_base
from phi3_lora_qa.stats.full_suite_bounds import sampling_key

PROBES = 24
LARGEST_LOSS_DIFFERENCE = 0.01
"""Nats per token. Merging rounds each weight once more; fp32 moves losses by about 1e-5."""
FEWEST_EQUAL_ANSWERS = 0.9
"""A greedy answer may turn on a near tie of two tokens, so a few may differ."""
MEND_VOCABULARY = (
    "serve the adapter unmerged, or merge and save with libraries that keep the tables"
)


def checks() -> tuple[Check, ...]:
    """Return the stage's checks."""
    return (check_of("export", exported_model_matches),)


def exported_model_matches(bench: Bench) -> Held:
    """Merge, save, load with transformers alone, and compare vocabulary, losses and answers.

    An adapter that cannot be merged is served as it is: it is saved and put on the base again.
    """
    from phi3_lora_qa.models.merge import merge_to_folder

    what = "merged model" if not bench.config.merge_refusal else "adapter, saved and loaded again,"
    bench.require_items()
    # Drawn, not taken in the file's order, so that no order of the items changes a figure.
    order = bench.run.settings.order
    items = sorted(bench.target.items, key=lambda item: sampling_key(item.id, order))[:PROBES]
    tuned = {score.item_id: score for score in bench.local_tuned_scores(items)}
    with tempfile.TemporaryDirectory(prefix="phi3-lora-qa-") as folder:
        place = Path(folder) / "exported"
        if bench.config.merge_refusal:
            bench.tuned.save_pretrained(place, save_embedding_layers=False)
            scores = bench.run.score_saved_adapter(bench, place, items)
        else:
            merge_to_folder(bench.run.base(bench), bench.tuned, place)
            _require_same_vocabulary(bench.run.base(bench), place)
            scores = bench.run.score_merged(bench, place, items)
    # numpy's max, unlike Python's, keeps a NaN wherever it stands.
    largest = float(np.max([abs(score.loss - tuned[score.item_id].loss) for score in scores]))
    equal = sum(score.answer == tuned[score.item_id].answer for score in scores)
    measured = {"items": len(scores), "equal_answers": equal, "largest_loss_difference": largest}
    if not largest <= LARGEST_LOSS_DIFFERENCE or equal < FEWEST_EQUAL_ANSWERS * len(scores):
        raise CheckFailedError(
            f"the {what} differs: {equal} of {len(scores)} answers are the same, and losses "
            f"differ by up to {largest:.3g} nats per token",
            "serve the adapter unmerged, or merge in float32",
            measured,
        )
    return Held(
        message=f"the {what} gives {equal} of {len(scores)} answers alike; losses differ by "
        f"at most {largest:.2g} nats per token",
        measured=measured,
    )


def _require_same_vocabulary(base: LoadedBase, place: Path) -> None:
    """The saved model has the base's tables, row for row, and its tokenizer's tokens."""
    shapes = {name: tuple(tensor.shape) for name, tensor in base.model.state_dict().items()}
    for path in weight_files(place):
        for name, info in open_path(path, error=BaseModelError).tensors.items():
            if info.shape != shapes[name]:
                raise CheckFailedError(
                    f"merged and saved, {name} is {info.shape}, the base's {shapes[name]}",
                    MEND_VOCABULARY,
                    {"tensor": name},
                )
    ref = resolve_base(str(place))
    counts = {
        "rows": (read_base_config(ref)["vocab_size"], base.model.config.vocab_size),
        "tokens": (len(load_tokenizer(ref)), len(base.tokenizer)),
    }
    for what, (found, expected) in counts.items():
        if found != expected:
            raise CheckFailedError(
                f"merged and saved, the vocabulary has {found} {what}, the base's {expected}",
                MEND_VOCABULARY,
                {what: found},
            )
