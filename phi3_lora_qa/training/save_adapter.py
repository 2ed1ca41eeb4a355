"""Write the finished adapter folder: PEFT's files, the base's tokenizer, model card, manifest."""

from importlib.metadata import version
from pathlib import Path

from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.manifest import make_manifest, write_manifest
from phi3_lora_qa.data.training_data import TrainingData
from phi3_lora_qa.models.registry import BaseRef
from phi3_lora_qa.training.job import Job, TrainingOutcome, TrainResult
from phi3_lora_qa.training.model_card import model_card

_LIBRARIES = ("phi3-lora-qa", "torch", "transformers", "peft", "trl", "datasets")


def write_adapter(
    folder: Path, outcome: TrainingOutcome, result: TrainResult, job: Job, data: TrainingData
) -> None:
    """Write everything into an existing empty folder, the manifest last."""
    outcome.save(folder)
    outcome.tokenizer.save_pretrained(str(folder))
    libraries = (*_LIBRARIES, "loralib") if job.is_loralib else _LIBRARIES
    versions = {name: version(name) for name in libraries}
    card = folder / "README.md"
    card.write_text(model_card(outcome, result, job, data, versions), encoding="utf-8")
    # safetensors writes with mode 0600; give the weights the permissions of the other files.
    (folder / WEIGHTS).chmod(card.stat().st_mode)
    manifest = make_manifest(
        AdapterFolder.open(folder),
        base_id=job.base.id,
        base_revision=_revision(job.base),
        base_fingerprint=outcome.base_fingerprint,
        data_sha256=data.sha256,
        seed=outcome.seed,
        versions=versions,
        final_losses={
            "train": outcome.train_loss,
            "eval_before": outcome.loss_before,
            "eval": outcome.loss_after,
        },
    )
    write_manifest(folder, manifest)


def _revision(base: BaseRef) -> str:
    """Return the commit hash of a base in the hub's cache; an empty string for other bases."""
    folder = base.folder
    return folder.name if folder is not None and folder.parent.name == "snapshots" else ""
