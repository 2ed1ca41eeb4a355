"""Claims the report folders of a full run before anything else happens in pytest."""

import os
from collections.abc import Sequence
from pathlib import Path

from phi3_lora_qa.gate.plan import ROOT
from phi3_lora_qa.pytest_plugin.report_target import Reports
from phi3_lora_qa.pytest_plugin.virtual_items import split_node_ids
from phi3_lora_qa.settings import GateSettings
from phi3_lora_qa.signals import EndedError, EndSignals


def claim_early(settings: GateSettings, directory: Path, args: Sequence[str]) -> Reports | None:
    """Claim the reports of a run of all checks.

    Args:
        settings: The valid part of the run's settings.
        directory: The directory in which pytest was started.
        args: pytest's arguments without options.

    Returns:
        The claimed reports; None if ids of checks are among the arguments.

    Raises:
        InputError: As `Reports.claim`.
    """
    if split_node_ids(args, ROOT)[0]:
        return None
    signals = EndSignals()
    signals.catch()
    try:
        reports = Reports(settings, directory)
        with signals.deferred():
            reports.claim(partial=False)
    except EndedError:
        signals.release()
        os.kill(os.getpid(), signals.received)  # no longer caught: it ends the process
        raise
    finally:
        signals.release()
    return reports
