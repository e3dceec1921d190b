"""Engines: the same contract in this process, in local ones and on a Ray cluster; real workers, really killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from budgeted import BudgetedError
from budgeted.study.engine import Engine, InProcess
from budgeted.study.processes import Processes, cores


def double(number: int) -> int:
    return 2 * number


def fail() -> None:
    raise ValueError("it went wrong")


def name_of_process(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die(mark: str) -> str:
    """The first time only, where a file is left."""
    path = Path(mark)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def always_die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_signal() -> str:
    caught = []
    signal.signal(signal.SIGTERM, lambda *_: caught.append("SIGTERM"))
    signal.signal(signal.SIGINT, lambda *_: caught.append("SIGINT"))
    until = time.monotonic() + 30
    while not caught and time.monotonic() < until:
        time.sleep(0.02)
    return caught[0] if caught else "nothing came"


def cores_of_process(_: int) -> frozenset[int]:
    time.sleep(0.2)
    return frozenset(os.sched_getaffinity(0))


def collect(engine: Engine, count: int, seconds: float = 180):
    until, ended = time.monotonic() + seconds, []
    while len(ended) < count:
        assert time.monotonic() < until, "the calls do not end"
        ended += engine.wait(0.1)
    return {e.ticket: e for e in ended}


@pytest.fixture(scope="module")
def ray_engine():
    ray = pytest.importorskip("ray")
    from budgeted.study.ray_engine import RayEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where its workers find the functions above
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with RayEngine("auto") as engine:
        yield engine
    ray.shutdown()


@pytest.fixture(scope="module")
def processes():
    with Processes(2) as engine:
        yield engine


@pytest.fixture(params=["in process", "processes", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request):
    if request.param == "in process":
        return InProcess()
    return request.getfixturevalue("ray_engine" if request.param == "ray" else "processes")


def test_each_call_comes_back_once_with_its_value(engine):
    tickets = {engine.submit(double, number): number for number in range(7)}
    ended = collect(engine, 7)
    assert {ticket: e.value for ticket, e in ended.items()} == {t: 2 * n for t, n in tickets.items()}
    assert engine.wait(0.05) == []


def test_what_a_call_raises_comes_back_with_where(engine):
    ticket = engine.submit(fail)
    ended = collect(engine, 1)[ticket]
    assert ended.value is None
    assert "ValueError: it went wrong" in ended.error
    assert "in fail" in ended.error


def test_as_many_at_once_as_there_are_slots(processes):
    for _ in range(4):
        processes.submit(name_of_process, 0.3)
    began = time.monotonic()
    ended = collect(processes, 4)
    assert len({e.value for e in ended.values()}) == 2  # two workers, kept
    assert os.getpid() not in {e.value for e in ended.values()}
    assert time.monotonic() - began < 30


@pytest.mark.skipif(cores() < 2, reason="needs two processors")
def test_each_worker_has_a_processor_of_its_own(processes):
    for number in range(2):
        processes.submit(cores_of_process, number)
    first, second = (e.value for e in collect(processes, 2).values())
    assert len(first) == len(second) == 1
    assert first != second


def test_a_worker_that_is_killed_is_told_and_replaced(processes):
    ticket = processes.submit(always_die)
    assert collect(processes, 1)[ticket].died == "SIGKILL"
    again = processes.submit(double, 4)
    assert collect(processes, 1)[again].value == 8


@pytest.mark.slow
def test_ray_tries_again_where_a_worker_is_killed(ray_engine, tmp_path):
    ticket = ray_engine.submit(die, str(tmp_path / "mark"))
    assert collect(ray_engine, 1)[ticket].value == "alive"
    ticket = ray_engine.submit(always_die)
    assert "after 2 retries" in collect(ray_engine, 1)[ticket].died


def test_calls_under_way_hear_that_they_are_to_stop():
    with Processes(1) as engine:
        engine.submit(double, 1)
        collect(engine, 1)
        ticket = engine.submit(wait_for_signal)
        time.sleep(0.3)
        engine.interrupt()
        assert collect(engine, 1)[ticket].value == "SIGTERM"


def with_a_child() -> int:
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.01,))
    child.start()
    child.join()
    return child.exitcode


def test_a_call_may_have_processes_of_its_own(processes):
    """As a task's loader with workers has."""
    ticket = processes.submit(with_a_child)
    assert collect(processes, 1)[ticket].value == 0


def gpus_seen() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_workers_take_turns_on_the_gpus_that_they_were_given():
    with Processes(1, gpus=2) as engine:
        ticket = engine.submit(gpus_seen)
        assert collect(engine, 1)[ticket].value == os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def test_workers_end_with_their_engine():
    with Processes(2) as engine:
        for _ in range(2):
            engine.submit(name_of_process, 0.2)
        pids = {e.value for e in collect(engine, 2).values()}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_no_cluster_is_said():
    pytest.importorskip("ray")
    import ray

    if ray.is_initialized():
        pytest.skip("this process has a cluster already")
    from budgeted.study.ray_engine import RayEngine

    with pytest.raises(BudgetedError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        RayEngine("127.0.0.1:1")
