"""The gate as a function for notebooks and scripts: the same checks and verdict as in pytest."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from phi3_lora_qa.close_match import did_you_mean
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.extras import require_extra
from phi3_lora_qa.function_arguments import require_path, require_texts
from phi3_lora_qa.gate.gate_steps import GateRun, plan_gate
from phi3_lora_qa.gate.private_copy import private_copies
from phi3_lora_qa.gate.run_check import run_check
from phi3_lora_qa.progress import Progress, silent
from phi3_lora_qa.pytest_plugin.report_target import Reports
from phi3_lora_qa.record import RunRecord
from phi3_lora_qa.setting_specs import SPECS, STAGES
from phi3_lora_qa.settings import GateSettings, reject_on_import_path, resolve

_NOT_HERE = ("adapter", "base", "suite", "thresholds", "stage", "seed", "report", "only", "layers")
"""Settings that are arguments of `gate_adapter`, or that only pytest has."""


def gate_adapter(  # noqa: PLR0913  the most used settings by name
    adapter: str | Path,
    *,
    base: str | Path | None = None,
    suite: Sequence[str | Path] = (),
    thresholds: str | Path | None = None,
    stages: Sequence[str] = STAGES,
    seed: int = 0,
    report: str | Path | None = None,
    on_progress: Progress = silent,
    **settings: object,
) -> RunRecord:
    """Gate one LoRA adapter in this process and return its record.

    The environment, pytest's configuration and settings files are not read.

    Args:
        adapter: The adapter's folder.
        base: The trusted base: a folder, a hub id or a name; by default the config's, if trusted.
        suite: Files with quality items; by default the items that belong to a bundled base.
        thresholds: A file with the limits of the quality stage.
        stages: The stages to run.
        seed: The seed of everything random.
        report: The folder to which the report is written; without it, nothing is written.
        on_progress: Called with the phase's name, the items done and all items.
        **settings: Any other setting of the gate by its name, such as ``dtype="bfloat16"`` or
            ``metric=["rouge_l"]`` (docs/reference.md lists them).

    Returns:
        The record; its verdict is PASS if the adapter is safe to ship, and its reason explains it.

    Raises:
        InputError: An argument or setting cannot be used, the report cannot be written, or the
            adapter's folder is on ``sys.path``.
        MissingDependencyError: The packages of the extra ``gate`` are not installed.

    Example:
        >>> from phi3_lora_qa.models.registry import bundled
        >>> record = gate_adapter(bundled("tiny") / "adapter", base="tiny", stages=["static"])
        >>> str(record.verdict)
        'PASS'
    """
    require_extra("gate", "the gate")
    _reject_unknown(settings)
    given = {
        "adapter": [str(require_path(adapter, "adapter"))],
        "base": None if base is None else str(require_path(base, "base")),
        "suite": list(require_texts(suite, "suite")) or None,
        "thresholds": thresholds,
        "stage": list(require_texts(stages, "stages")),
        "seed": seed,
        "report": report,
    }
    resolved = resolve({**settings, **given}, {}, {}, Path.cwd(), None)
    reject_on_import_path(resolved.adapter[0])
    return _run_with_report(resolved, on_progress)


def _run_with_report(settings: GateSettings, on_progress: Progress) -> RunRecord:
    if settings.report is None:
        return _run(settings, None, on_progress)
    reports = Reports(settings, Path.cwd())
    reports.claim(partial=False)
    try:
        return _run(settings, reports, on_progress)
    except BaseException as error:
        reports.end(f"{type(error).__name__}: {error}")
        raise


def _run(settings: GateSettings, reports: Reports | None, on_progress: Progress) -> RunRecord:
    plan = plan_gate(settings)
    with private_copies(plan.jobs) as folder:
        run = GateRun.start(plan, plan.planned, folder, on_progress)
        for planned in run.chosen:
            run_check(planned, run.session)
        (reported,) = run.finish()
    if reports:
        reports.write([reported])
        return reported.record
    return replace(reported.record, items="")  # no table was written


def _reject_unknown(settings: dict[str, object]) -> None:
    known = [spec.name for spec in SPECS if spec.name not in _NOT_HERE]
    for name in settings:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(
                f"unknown setting: {escape(name, 60)}; "
                + (f"{hint} " if hint else "")
                + f"use one of {', '.join(known)}"
            )
