"""SIGTERM and SIGHUP end a run like Ctrl-C does, and other handlers are kept."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from phi3_lora_qa.signals import CAUGHT, EndedError, EndSignals


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in CAUGHT}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals() -> Iterator[EndSignals]:
    caught = EndSignals()
    caught.catch()
    yield caught
    caught.release()


@pytest.mark.parametrize("number", CAUGHT)
def test_a_signal_is_raised_once_and_remembered(number: int, signals: EndSignals) -> None:
    with pytest.raises(EndedError, match=signal.Signals(number).name):
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)  # must not interrupt the cleanup
    assert signals.received == number
    assert signals.status == 128 + number


def test_code_that_handles_ctrl_c_handles_a_signal(signals: EndSignals) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_deferred_block_is_finished_first(signals: EndSignals) -> None:
    done = []

    def work() -> None:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(True)

    with pytest.raises(EndedError):
        work()
    assert done


def test_without_a_signal_nothing_is_raised(signals: EndSignals) -> None:
    with signals.deferred():
        pass
    assert not signals.received


def test_a_users_handler_and_an_ignored_signal_are_kept() -> None:
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = EndSignals()
    signals.catch()
    for number in CAUGHT:
        os.kill(os.getpid(), number)
    signals.release()
    assert seen == [signal.SIGTERM]
    assert not signals.received
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_the_previous_handlers_are_restored() -> None:
    signals = EndSignals()
    signals.catch()
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    signals.release()
    assert all(signal.getsignal(number) is signal.SIG_DFL for number in CAUGHT)


def test_a_handler_installed_meanwhile_is_kept() -> None:
    def own(number: int, frame: object) -> None: ...

    signals = EndSignals()
    signals.catch()
    signal.signal(signal.SIGTERM, own)
    signals.release()
    assert signal.getsignal(signal.SIGTERM) is own


def test_other_threads_install_nothing() -> None:
    signals = EndSignals()
    thread = threading.Thread(target=signals.catch)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
