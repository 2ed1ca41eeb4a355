"""The finished adapter folder: what PEFT writes, the base's tokenizer, a model card, a manifest."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.manifest import make_manifest, write_manifest
from phi3_lora_qa.data.training_data import TrainingData
from phi3_lora_qa.models.registry import BaseRef
from phi3_lora_qa.training.model_card import model_card
from phi3_lora_qa.training.training_run import TrainingOutcome

if TYPE_CHECKING:
    from phi3_lora_qa.training.train import Job, TrainResult

_LIBRARIES = ("phi3-lora-qa", "torch", "transformers", "peft", "trl", "datasets")


def write_adapter(
    folder: Path, trained: TrainingOutcome, result: "TrainResult", job: "Job", data: TrainingData
) -> None:
    """Write everything into a folder that exists and is empty; the manifest comes last."""
    trained.save(folder)
    trained.tokenizer.save_pretrained(str(folder))
    libraries = (*_LIBRARIES, "loralib") if job.is_loralib else _LIBRARIES
    versions = {name: version(name) for name in libraries}
    card = folder / "README.md"
    card.write_text(model_card(trained, result, job, data, versions), encoding="utf-8")
    # safetensors writes for the owner alone; the adapter is as readable as its card.
    (folder / WEIGHTS).chmod(card.stat().st_mode)
    manifest = make_manifest(
        AdapterFolder.open(folder),
        base_id=job.base.id,
        base_revision=_revision(job.base),
        base_fingerprint=trained.base_fingerprint,
        data_sha256=data.sha256,
        seed=trained.seed,
        versions=versions,
        final_losses={
            "train": trained.train_loss,
            "eval_before": trained.loss_before,
            "eval": trained.loss_after,
        },
    )
    write_manifest(folder, manifest)


def _revision(base: BaseRef) -> str:
    """Return the commit of a base that lies in the hub's cache, else an empty string."""
    folder = base.folder
    return folder.name if folder is not None and folder.parent.name == "snapshots" else ""
