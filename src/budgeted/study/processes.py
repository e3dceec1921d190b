"""Local processes: one thread each, each on a processor of its own, or several on one GPU."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, final

from .engine import Ended, Engine

_PRELOADED = ["budgeted.train.together", "budgeted.tasks.registry", "budgeted.study.work"]  # once, for all workers
_PATIENCE = 30.0  # seconds that a worker has to stop when it is asked to


@final
class Processes(Engine):
    """So many worker processes on this machine; one that dies is replaced.

    Args:
        slots: workers.
        gpus: GPUs that they take turns on; 0 where they train on processors, a core for each.
    """

    def __init__(self, slots: int, *, gpus: int = 0) -> None:
        self.slots = slots
        self._gpus = gpus
        # With fewer workers than processors, another study's might be pinned to the same one.
        self._pinned = not gpus and slots == cores() and hasattr(os, "sched_setaffinity")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._workers: list[_Worker | None] = [None] * slots
        self._waiting: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._count = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        self._count += 1
        self._waiting.append((self._count, function, arguments))
        self._deal()
        return self._count

    def wait(self, timeout: float) -> list[Ended]:
        self._deal()
        busy = {worker.pipe: place for place, worker in enumerate(self._workers) if worker and worker.ticket}
        ended = []
        for pipe in wait(list(busy), timeout):
            place = busy[pipe]
            worker = self._workers[place]
            assert worker is not None
            ended.append(worker.take())
            if ended[-1].died:
                self._workers[place] = None
        self._deal()
        return ended

    def _deal(self) -> None:
        """Give what waits to those who have nothing to do."""
        for place, worker in enumerate(self._workers):
            if not self._waiting:
                return
            if worker is not None and not worker.ticket and not worker.process.is_alive():
                worker = None  # it died idle
            if worker is None:
                worker = self._workers[place] = _Worker(self._context, place, self._gpus, self._pinned)
            if not worker.ticket:
                worker.give(*self._waiting.popleft())

    def interrupt(self) -> None:
        self._waiting.clear()
        for worker in self._workers:
            if worker is not None and worker.ticket:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid or 0, signal.SIGTERM)

    def close(self) -> None:
        workers = [worker for worker in self._workers if worker is not None]
        self.interrupt()
        for worker in workers:
            worker.pipe.close()  # an idle one ends by that
        for worker in workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = [None] * self.slots


def cores() -> int:
    """The processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, context: Any, place: int, gpus: int, pinned: bool) -> None:
        self.pipe, theirs = context.Pipe()
        # No daemon: those may have no children, and a task's loader may want some.
        self.process: ForkServerProcess = context.Process(target=_work, args=(theirs, place, gpus, pinned))
        self.process.start()
        theirs.close()  # so that its end is the end of the pipe
        self.ticket = 0  # of the call under way

    def give(self, ticket: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.ticket = ticket
        with contextlib.suppress(OSError):  # that it died is found when its answer is taken
            self.pipe.send((function, arguments))

    def take(self) -> Ended:
        ticket, self.ticket = self.ticket, 0
        try:
            value, error = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Ended(ticket, died=name)
        return Ended(ticket, value, error)


def _work(pipe: Connection, place: int, gpus: int, pinned: bool) -> None:
    """A worker's life: calls, one after another, until the pipe or the process that holds its other end is gone."""
    # Ctrl-C in a terminal reaches every process of it; a run under way hears it, and an idle worker need not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave_with_parent()
    if gpus > 1:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        there = given.split(",") if given else [str(number) for number in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = there[place % len(there)]
    elif pinned:
        os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[place]])
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[Any, str | None] = function(*arguments), None
        except Exception:
            answer = None, traceback.format_exc()
        with contextlib.suppress(OSError):
            pipe.send(answer)


def _leave_with_parent() -> None:
    """Stop, with a checkpoint, when the process that asked for the work is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
