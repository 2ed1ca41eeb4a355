from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.training.job import Job
from phi3_lora_qa.training.library_arguments import Arguments
from phi3_lora_qa.training.training_config import config_from_tables


def job(engine: str = "peft", training: dict[str, Any] | None = None) -> Job:
    tables = {
        "model": {"base": "tiny"},
        "data": {"train": Path("rows.jsonl")},
        "output": {"dir": Path("adapter")},
        "engine": {"name": engine},
    }
    return Job(
        config=config_from_tables(tables, "a test"),
        base=resolve_base("tiny"),
        training=Arguments(values=training or {}),
        peft=Arguments(values={}),
        quantization=Arguments(values={}),
    )


@pytest.mark.parametrize(("engine", "expected"), [("peft", False), ("loralib", True)])
def test_a_job_knows_its_engine(engine: str, expected: bool) -> None:
    assert job(engine).is_loralib is expected


@pytest.mark.parametrize("resume", [None, True, "runs/checkpoint-2"])
def test_a_job_knows_what_to_resume_from(resume: str | bool | None) -> None:
    settings = {} if resume is None else {"resume_from_checkpoint": resume}
    assert job(training=settings).resume == resume
