"""Tests of the exit codes: none of them is a verdict, and a stop is that of a shell."""

import signal

from phi3_lora_qa.exit_codes import BAD_INPUT, STOPPED


def test_no_exit_code_is_a_verdict() -> None:
    assert not {BAD_INPUT, STOPPED} & {0, 1}


def test_a_stopped_command_has_the_exit_code_of_a_shell() -> None:
    assert STOPPED == 128 + signal.SIGINT
