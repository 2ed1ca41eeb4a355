"""Export stage: the exported model, loaded on its own, gives the tuned model's answers."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa.adapter.safetensors_file import open_path
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import Check, CheckOutcome, checks_of, failed, passed
from phi3_lora_qa.models.loading import LoadedBase, load_tokenizer, weight_files
from phi3_lora_qa.models.registry import read_base_config, resolve_base
from phi3_lora_qa.stats.full_suite_bounds import sampling_key

if TYPE_CHECKING:
    from phi3_lora_qa.scoring.score_items import ItemScore

PROBES = 24
LARGEST_LOSS_DIFFERENCE = 0.01
"""Nats per token. Merging rounds each weight once more; in float32 losses move by about 1e-5."""
FEWEST_EQUAL_ANSWERS = 0.9
"""A greedy answer may depend on a near tie of two tokens, so a few may differ."""
FIX_VOCABULARY = "serve the adapter unmerged, or merge and save with libraries that keep the tables"


def checks() -> tuple[Check, ...]:
    """Return the stage's checks."""
    return checks_of("export", exported_model_matches)


def exported_model_matches(session: AdapterSession) -> CheckOutcome:
    """Merge, save, load with transformers alone, and compare vocabulary, losses and answers.

    An adapter that cannot be merged is saved, and the saved adapter is attached to the base.
    """
    session.comparison.require_items()
    # Drawn, so that the order of the suite's file changes no figure.
    order = session.settings.order
    items = sorted(session.job.items, key=lambda item: sampling_key(item.id, order))[:PROBES]
    tuned = {score.item_id: score for score in session.comparison.score_tuned_locally(items)}
    is_merged = not session.adapter.config.merge_refusal
    what = "merged model" if is_merged else "saved and reloaded adapter"
    with tempfile.TemporaryDirectory(prefix="phi3-lora-qa-") as folder:
        exported = Path(folder) / "exported"
        if is_merged:
            if fault := _merge(session, exported):
                return fault
            scores = _score_merged(session, exported, items)
        else:
            session.attach_adapter().save_pretrained(exported, save_embedding_layers=False)
            scores = _score_saved_adapter(session, exported, items)
    # numpy's max, unlike Python's, returns NaN if there is one anywhere in the list.
    largest = float(np.max([abs(score.loss - tuned[score.item_id].loss) for score in scores]))
    equal = sum(score.answer == tuned[score.item_id].answer for score in scores)
    measured = {"items": len(scores), "equal_answers": equal, "largest_loss_difference": largest}
    figures = (
        f"{equal} of {len(scores)} answers are equal, and losses differ by up to {largest:.3g} "
        "nats per token"
    )
    if not largest <= LARGEST_LOSS_DIFFERENCE or equal < FEWEST_EQUAL_ANSWERS * len(scores):
        return failed(
            f"the {what} differs from the tuned model: {figures}",
            "serve the adapter unmerged, or merge in float32",
            measured,
        )
    return passed(f"the {what} matches the tuned model: {figures}", measured)


def _merge(session: AdapterSession, folder: Path) -> CheckOutcome | None:
    """Merge the adapter and save the model; return a fault of the saved vocabulary, or None."""
    from phi3_lora_qa.models.merge import merge_to_folder

    tuned = session.attach_adapter()
    base = session.load_base()
    merge_to_folder(base, tuned, folder)
    return _compare_vocabularies(base, folder)


def _score_merged(
    session: AdapterSession, folder: Path, items: list[Item]
) -> tuple["ItemScore", ...]:
    """Load a merged model while no other model is loaded, and score it."""
    merged = session.models.load_exported(folder)
    return session.comparison.score_exported(merged, merged.model, items, "score merged")


def _score_saved_adapter(
    session: AdapterSession, folder: Path, items: list[Item]
) -> tuple["ItemScore", ...]:
    """Load the base again, attach a saved adapter to it, and score that."""
    session.models.release()
    tuned = session.models.attach_adapter(session.job.require_base(), folder, session.log)
    base = session.load_base()
    scores = session.comparison.score_exported(base, tuned, items, "score exported")
    session.models.detach_adapter()
    return scores


def _compare_vocabularies(base: LoadedBase, folder: Path) -> CheckOutcome | None:
    """Require the base's tables, row for row, and its tokenizer's tokens in the saved model."""
    shapes = {name: tuple(tensor.shape) for name, tensor in base.model.state_dict().items()}
    for path in weight_files(folder):
        for name, info in open_path(path, error=BaseModelError).tensors.items():
            if info.shape != shapes[name]:
                return failed(
                    f"the shape of the merged model's {name} differs from the base's: "
                    f"{info.shape} instead of {shapes[name]}",
                    FIX_VOCABULARY,
                    {"tensor": name},
                )
    ref = resolve_base(str(folder))
    counts = {
        "rows": (read_base_config(ref)["vocab_size"], base.model.config.vocab_size),
        "tokens": (len(load_tokenizer(ref)), len(base.tokenizer)),
    }
    for what, (found, expected) in counts.items():
        if found != expected:
            return failed(
                f"the size of the merged model's vocabulary differs from the base's: {found} "
                f"{what} instead of {expected}",
                FIX_VOCABULARY,
                {what: found},
            )
    return None
