"""Signals ask a run to stop: kept for later, or taken at once, by the process that they were sent to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from budgeted.core.signals import Caught, Signals

ASKING = ("SIGINT", "SIGTERM", "SIGUSR1")


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def handlers() -> list:
    return [signal.getsignal(getattr(signal, name)) for name in ASKING]


@pytest.mark.parametrize("name", ASKING)
def test_a_signal_is_kept_while_the_work_runs(name):
    with Signals() as signals:
        assert signals.caught is None
        send(name)
        assert signals.caught == name


@pytest.mark.parametrize("name", ASKING)
def test_a_signal_breaks_off_what_can_be_dropped(name):
    with Signals() as signals:
        with pytest.raises(Caught, match=f"^{name}$"), signals.at_once:
            send(name)
        assert signals.caught == name
        assert signals.at_once.depth == 0


def test_a_signal_wakes_up_what_waits():
    with Signals() as signals:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(Caught, match="SIGTERM"), signals.at_once:
            time.sleep(20)
        timer.join()


def test_a_signal_from_before_is_taken_on_entry():
    reached = False
    with Signals() as signals:
        send("SIGTERM")
        with pytest.raises(Caught, match="SIGTERM"), signals.at_once:
            reached = True
    assert not reached
    assert signals.at_once.depth == 0


def test_behind_what_can_be_dropped_a_signal_is_kept():
    with Signals() as signals:
        with signals.at_once, signals.at_once:
            assert signals.at_once.depth == 2
        send("SIGTERM")
        assert signals.caught == "SIGTERM"


def test_no_except_exception_swallows_it():
    assert not issubclass(Caught, Exception)


@pytest.mark.parametrize("later", ["SIGTERM", "SIGUSR1"])
def test_the_first_signal_counts_and_is_told_of_once(later):
    """SLURM warns, and ends the job later: the checkpoint in between is written whole."""
    told: list[str] = []
    with Signals(told.append) as signals:
        send("SIGUSR1")
        send(later)
        assert signals.caught == "SIGUSR1"
    assert told == ["SIGUSR1"]


@pytest.mark.parametrize("first", ASKING)
def test_a_second_ctrl_c_interrupts_whatever_is_under_way(first):
    with Signals() as signals:
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send("SIGINT")
        assert signals.caught == first


def test_a_second_signal_does_not_break_off_what_the_first_one_led_to():
    """Not even where the first came in the last moment of what could be dropped, so that its end did not run."""
    with Signals() as signals:
        signals.at_once.depth = 1  # as such a moment leaves it
        with pytest.raises(Caught, match="SIGUSR1"):
            send("SIGUSR1")
        send("SIGTERM")
        assert signals.caught == "SIGUSR1"


def train(signals: Signals) -> None:
    while True:
        with signals.at_once:
            sum(range(20))
        sum(range(20))


def test_a_signal_may_come_at_any_moment_of_an_update():
    """Real signals at random moments: each is either raised within `at_once` or at the next one, and none is lost."""
    for k in range(60):
        with Signals() as signals:
            timer = threading.Timer(0.0003 * (k % 20), os.kill, (os.getpid(), signal.SIGTERM))
            timer.start()
            with pytest.raises(Caught, match="SIGTERM"):
                train(signals)
            assert signals.caught == "SIGTERM"
            timer.join()


@pytest.mark.parametrize("name", ASKING)
def test_handlers_are_given_back(name):
    before = handlers()
    with Signals():
        assert before != handlers()
    assert handlers() == before
    with pytest.raises(ValueError, match="broken"), Signals():
        raise ValueError("broken")
    assert handlers() == before


def test_one_within_another_gives_back_the_outer_one():
    with Signals() as outer:
        with Signals() as inner:
            send("SIGTERM")
            assert (inner.caught, outer.caught) == ("SIGTERM", None)
        send("SIGUSR1")
        assert outer.caught == "SIGUSR1"


def test_in_another_thread_signals_mean_what_they_did():
    found: list = []

    def look() -> None:
        with Signals() as signals, signals.at_once:
            found.extend(handlers())

    before = handlers()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == before


def fork(run: Callable[[], None]) -> int:
    """The status of a forked child that runs a function."""
    child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        finally:
            os._exit(7)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("name", ASKING)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX's, where another test has imported it
def test_a_forked_worker_is_ended_by_the_run_alone(name, within):
    """Ctrl-C and SLURM's warning reach it too. SIGTERM is how the run ends it."""
    with Signals() as signals:
        with signals.at_once if within else nullcontext():
            status = fork(lambda: send(name))
        if name == "SIGTERM":
            assert os.WIFSIGNALED(status)
            assert os.WTERMSIG(status) == signal.SIGTERM
        else:
            assert status == 0
        assert signals.caught is None


LOADING = """
import os, signal, subprocess, sys, time
import torch
from torch.utils.data import DataLoader, Dataset
from budgeted.core.signals import Caught, Signals

class Slow(Dataset):
    def __len__(self):
        return 10_000
    def __getitem__(self, index):
        time.sleep(0.001)
        return torch.ones(2)

def work(seconds):
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        torch.ones(50).sum()

with Signals() as signals:
    batches, seen = iter(DataLoader(Slow(), 8, num_workers=2)), 0
    try:
        while True:
            with signals.at_once:
                next(batches)
            work(0.01)
            seen += 1
            if seen == 10:
                send = "import os, sys; os.setsid(); os.killpg(int(sys.argv[1]), int(sys.argv[2]))"
                subprocess.Popen([sys.executable, "-S", "-c", send, str(os.getpgrp()), sys.argv[1]])
    except Caught as caught:
        work(0.3)
        print(caught, "saved")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKING)
def test_a_signal_to_the_whole_group_does_not_fail_a_run_whose_loader_has_workers(name):
    """As a terminal, SLURM and a supervisor send it. PyTorch takes a worker's death for a failure of the run."""
    number = str(int(getattr(signal, name)))
    done = subprocess.run(
        [sys.executable, "-c", LOADING, number], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert f"{name} saved\n" in done.stdout, done.stderr
    assert done.returncode == 0
