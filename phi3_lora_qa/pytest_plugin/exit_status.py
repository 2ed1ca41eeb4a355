"""The exit status of a session that was asked to gate: true to the verdict, whatever happens in it.

Hooks can be answered by any plugin, and any plugin can be unregistered. So the last word is not a
hook of ours: it stands in the place of the hook from which pytest's exit status comes, around all
that answer it.
"""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from phi3_lora_qa.errors import Phi3LoraQAError
from phi3_lora_qa.exit_codes import BAD_INPUT
from phi3_lora_qa.settings import GateSettings
from phi3_lora_qa.signals import EndedError

if TYPE_CHECKING:
    from phi3_lora_qa.pytest_plugin.gate_session import Gate
    from phi3_lora_qa.pytest_plugin.report_target import Reports


class LastWord:
    """Answers in the place of ``config.hook.pytest_cmdline_main``, and holds what it must know.

    Attributes:
        settings: What the user asked for, or what is wrong with it; None until it was found out.
        only_listed: Whether tests are only to be listed.
        informs: Whether pytest is only to tell about itself, so that nothing can be judged.
        refused: Why the run was refused; empty if it was not.
        known: What is known of the settings, where all that decides about reports is.
        reports: Where the reports go, once that was claimed.
        gate: The gate; None before it began.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Take the hook's place; pluggy still finds everything of it."""
        self.settings: GateSettings | Phi3LoraQAError | None = None
        self.only_listed = self.informs = False
        self.refused = ""
        self.gate: Gate | None = None
        self.known: GateSettings | None = None
        self.reports: Reports | None = None
        self._config, self._hook, self._called = config, config.hook.pytest_cmdline_main, False
        setattr(config.hook, "pytest_cmdline_main", self)  # noqa: B010  mypy knows no such word

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hook, name)

    def block(self, why: str) -> None:
        """Refuse the run for what an import would have brought in; a gate that began judges on."""
        if self.gate is None:
            self.refused = self.refused or why

    @property
    def owes_a_verdict(self) -> bool:
        """Whether the process may not end with 0, as an adapter was asked for and not accepted."""
        if isinstance(self.settings, Phi3LoraQAError) or self.refused:
            return not self.informs
        asked = self.settings is not None and bool(self.settings.adapter)
        return asked and not self.informs and not (self.gate and self.gate.accepted)

    def __call__(self, *, config: pytest.Config) -> Any:
        """Run pytest, and return an exit status that is true."""
        self._called = True
        try:
            status = self._hook(config=config)
        except EndedError as ended:  # by a signal, behind the last test
            self._say(str(ended))
            with contextlib.suppress(EndedError, SystemExit, pytest.exit.Exception):
                config._ensure_unconfigure()
            return self.gate.signals.status if self.gate else BAD_INPUT
        except (SystemExit, pytest.exit.Exception) as left:
            if not self.owes_a_verdict:
                raise
            status = None
            if isinstance(left, pytest.exit.Exception):
                self._say(left.msg)
        if not self.owes_a_verdict:
            return status
        with contextlib.suppress(SystemExit, pytest.exit.Exception):
            # What was still to be done is done now: there could be an end with 0 among it.
            config._ensure_unconfigure()
        return self._true(status)

    def leave(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End a process that is left before pytest's main part with the true status, too.

        Called when pytest lets go of its configuration, after all other cleanups.
        """
        error = error or sys.exc_info()[1]
        if self._called or error is None or not self.owes_a_verdict:
            return
        if self.refused or isinstance(error, SystemExit):
            self._say(self.refused or "pytest was left before an adapter was judged")
            raise SystemExit(BAD_INPUT)

    def _true(self, status: object) -> int:
        """Return the status that tells what became of the adapters."""
        if self.refused:
            return BAD_INPUT
        if self.gate is not None and self.gate.signals.received:
            return self.gate.signals.status
        if self.gate is not None and self.gate.reported:
            return int(pytest.ExitCode.TESTS_FAILED)
        # A system keeps eight bits of a status: 256 is 0 to whoever asks.
        kept = int.__and__(status, 0xFF) if isinstance(status, int) else 0
        if kept not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return kept
        self._say(
            "no adapter was judged, as tests were only listed; leave out --collect-only"
            if self.only_listed
            else "no adapter was judged: the session ended before; see what ended it"
        )
        return BAD_INPUT

    def _say(self, why: str) -> None:
        if not hasattr(self._config, "workerinput"):
            sys.stderr.write(f"Exit: {why}\n")
