"""``phi3-lora-qa demo``: trains an adapter, gates it, damages a copy, and gates that."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.extras import require_extra
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.record import Verdict, load_record
from phi3_lora_qa.report.report_folder import PAGE, RECORD

MARK = ".phi3-lora-qa-demo"
"""A file in each folder that the demo made: only such a folder is ever deleted."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The demo's training config, suites and thresholds."""

    config: Path
    suites: tuple[Path, ...]
    thresholds: Path
    overrides: tuple[str, ...] = ()


def demo_command(base: str, output: Path) -> int:
    """Train, gate, damage, gate; return 0 if the adapter passed and the damaged copy failed."""
    require_extra("train", "the demo")
    recipe = _recipe(base)
    folder = _fresh(output / (base if base in ("tiny", "smollm2") else Path(base).name))
    good, damaged = folder / "adapter", folder / "damaged"
    _say(f"1/4 fine-tuning {base} with LoRA")
    overrides = [
        f"--set={text}"
        for text in (f"output.dir={json.dumps(str(good.resolve()))}", *recipe.overrides)
    ]
    trained = _run("phi3_lora_qa", "train", str(recipe.config), *overrides)
    if trained:
        return trained
    _say("2/4 gating the adapter")
    first = _gate(good, base, recipe, folder / "report")
    _say("3/4 damaging a copy: one NaN in a lora_B weight")
    _damage(good, damaged)
    _say("4/4 gating the damaged copy")
    second = _gate(damaged, base, recipe, folder / "report-damaged")
    _say(f"adapter:      {first}, report: {folder / 'report' / PAGE}")
    _say(f"damaged copy: {second}, report: {folder / 'report-damaged' / PAGE}")
    return 0 if (first, second) == (Verdict.PASS, Verdict.FAIL) else 1


def _recipe(base: str) -> Recipe:
    if base == "tiny":
        data = bundled("tiny")
        return Recipe(
            config=data / "train.toml",
            suites=(data / "suite.jsonl",),
            thresholds=data / "thresholds.toml",
        )
    data = bundled("smollm2")  # natural language, for any base but the tiny one
    return Recipe(
        config=data / "train.toml",
        suites=(data / "target.jsonl", data / "general.jsonl"),
        thresholds=data / "thresholds.toml",
        overrides=(f"model.base={json.dumps(base)}",),
    )


def _fresh(folder: Path) -> Path:
    """Create the demo's folder, empty; never delete a folder that the demo did not make."""
    if folder.exists():
        if not (folder / MARK).is_file():
            raise InputError(
                f"{folder} already exists, and the demo did not make it; "
                "move it, or pass another folder with --output"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).write_text("made by phi3-lora-qa demo; may be deleted\n", encoding="utf-8")
    return folder


def _gate(adapter: Path, base: str, recipe: Recipe, report: Path) -> str:
    """Gate in a separate process; return the verdict from its record."""
    _run(
        "pytest",
        "-q",
        "--phi3-only",
        f"--phi3-adapter={adapter}",
        f"--phi3-base={base}",
        f"--phi3-report={report}",
        *(f"--phi3-suite={suite}" for suite in recipe.suites),
        f"--phi3-thresholds={recipe.thresholds}",
    )
    return load_record(report / RECORD).verdict


def _damage(good: Path, damaged: Path) -> None:
    """Copy the adapter and write a NaN, as a diverged training step would leave it."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    shutil.copytree(good, damaged)
    weights = damaged / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    tensors[name].flat[0] = np.nan
    save_file(tensors, weights, metadata={"format": "pt"})


def _run(*module_and_arguments: str) -> int:
    """Run a module in a separate process, so that each step starts as it does for a user."""
    command = [sys.executable, "-m", *module_and_arguments]
    with subprocess.Popen(command) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()  # unlike a kill, this lets it clean up
            child.wait()
            raise


def _say(text: str) -> None:
    print(f"demo: {text}", flush=True)
