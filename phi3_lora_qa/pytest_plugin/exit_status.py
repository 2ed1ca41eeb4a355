"""The exit status of a gate session: it reflects the verdict, even if plugins interfere.

Any plugin can implement hooks, and any plugin can be unregistered. So the exit status is not
decided in a hook of ours: an object of ours replaces the hook that pytest's exit status comes from,
and wraps all implementations of it.
"""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from phi3_lora_qa.errors import IncompatibleLibraryError, Phi3LoraQAError
from phi3_lora_qa.exit_codes import BAD_INPUT
from phi3_lora_qa.libraries import incompatible, part_of
from phi3_lora_qa.settings import GateSettings
from phi3_lora_qa.signals import EndedError

if TYPE_CHECKING:
    from phi3_lora_qa.pytest_plugin.gate_plugin import GatePlugin
    from phi3_lora_qa.pytest_plugin.report_target import Reports


class ExitStatusGuard:
    """Replaces ``config.hook.pytest_cmdline_main``, and keeps the state that decides the status.

    Attributes:
        settings: The user's settings, or what is wrong with them; None until they are read.
        only_listed: Whether tests are only listed.
        only_informs: Whether pytest only prints about itself, so that there is no verdict.
        refused: Why the run was refused; empty if it was not.
        known: The valid part of the settings, with everything that decides where reports go.
        reports: Where the reports go, once that was claimed.
        gate: The gate; None before it began.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Replace the hook; pluggy still finds every attribute of it."""
        self.settings: GateSettings | Phi3LoraQAError | None = None
        self.only_listed = self.only_informs = False
        self.refused = ""
        self.gate: GatePlugin | None = None
        self.known: GateSettings | None = None
        self.reports: Reports | None = None
        self._config, self._hook, self._called = config, config.hook.pytest_cmdline_main, False
        setattr(config.hook, "pytest_cmdline_main", self)  # noqa: B010  unknown to mypy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hook, name)

    def watch(self) -> Phi3LoraQAError | None:
        """Detect that pytest exits before its main part.

        Returns:
            An error if this version of pytest cleans up differently; then nothing can be gated.
        """
        stack = getattr(self._config, "_cleanup_stack", None)
        if not isinstance(stack, contextlib.ExitStack):
            return incompatible("pytest", "has no Config._cleanup_stack")
        # What is pushed first is called last, and is passed the error of the other cleanups.
        stack.push(self._leave)
        try:
            part_of("pytest", "_pytest.config", "Config._ensure_unconfigure")
        except IncompatibleLibraryError as error:
            return error
        return None

    def block(self, why: str) -> None:
        """Refuse the run because of an import; once the gate has begun, its verdict counts."""
        if self.gate is None:
            self.refused = self.refused or why

    @property
    def must_fail(self) -> bool:
        """Whether the process must not exit with 0: an adapter was given and not accepted."""
        if isinstance(self.settings, Phi3LoraQAError) or self.refused:
            return not self.only_informs
        gates = self.settings is not None and bool(self.settings.adapter)
        return gates and not self.only_informs and not (self.gate and self.gate.accepted)

    def __call__(self, *, config: pytest.Config) -> Any:
        """Run pytest, and return the exit status that reflects the verdict."""
        self._called = True
        try:
            status = self._hook(config=config)
        except EndedError as ended:  # by a signal, after the last test
            self._print(str(ended))
            with contextlib.suppress(EndedError, SystemExit, pytest.exit.Exception):
                config._ensure_unconfigure()
            return self.gate.signals.status if self.gate else BAD_INPUT
        except (SystemExit, pytest.exit.Exception) as left:
            if not self.must_fail:
                raise
            status = None
            if isinstance(left, pytest.exit.Exception):
                self._print(left.msg)
        if not self.must_fail:
            return status
        with contextlib.suppress(SystemExit, pytest.exit.Exception):
            # Run the remaining cleanups now: one of them could exit with 0.
            config._ensure_unconfigure()
        return self._status_of(status)

    def _leave(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Exit with the right status if pytest exits before its main part.

        Called when pytest releases its configuration, after all other cleanups.
        """
        error = error or sys.exc_info()[1]
        if self._called or error is None or not self.must_fail:
            return
        if self.refused or isinstance(error, SystemExit):
            self._print(self.refused or "pytest exited before there was a verdict")
            raise SystemExit(BAD_INPUT)

    def _status_of(self, status: object) -> int:
        """Return the exit status of a session without an accepted adapter."""
        if self.refused:
            return BAD_INPUT
        if self.gate is not None and self.gate.signals.received:
            return self.gate.signals.status
        if self.gate is not None and self.gate.reported:
            return int(pytest.ExitCode.TESTS_FAILED)
        # A system keeps eight bits of a status: 256 arrives as 0.
        kept = int.__and__(status, 0xFF) if isinstance(status, int) else 0
        if kept not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return kept
        self._print(
            "no verdict: tests were only listed; remove --collect-only to run the gate"
            if self.only_listed
            else "no verdict: the session ended before the checks ran; see the output above"
        )
        return BAD_INPUT

    def _print(self, why: str) -> None:
        if not hasattr(self._config, "workerinput"):
            sys.stderr.write(f"Exit: {why}\n")
