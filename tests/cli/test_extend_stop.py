"""`budgeted extend` and `budgeted stop`: one process trains, and another changes its budget."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny_task
from budgeted.cli.main import main
from budgeted.core.record import RunFolder
from budgeted.core.trace import Trace

TINY = f"{tiny_task.__file__}:Tiny"
COMMAND = (sys.executable, "-m", "budgeted.cli.main")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def until(true: Callable[[], object]) -> None:
    """Wait for what another process is to do."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not happen within a minute"
        time.sleep(0.01)


class Training:
    """A process that trains the tiny task in a folder, an update in a hundredth of a second, until it is left."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.said = folder, folder / "said.txt"
        options = ("--precision", "float32", "--no-curve", "--deterministic", "--json")
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [*COMMAND, "train", TINY, *options, *arguments],
                cwd=folder,
                env=ENVIRONMENT | {"TINY_SECONDS": "0.01"},
                stdout=said,
                stderr=said,
            )

    def __enter__(self) -> Training:
        until(lambda: self.process.poll() is not None or self.rows())
        assert self.process.poll() is None, self.said.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def run(self) -> Path:
        return next((self.folder / "runs").glob("[!.]*"))

    def rows(self) -> list[dict]:
        return [row for path in (self.folder / "runs").glob("[!.]*") for row in RunFolder(path).rows()]

    def result(self) -> dict:
        assert self.process.wait(60) == 0, self.said.read_text()
        return json.loads(self.said.read_text())


def ask(training: Training, kind: str, *arguments: str) -> str:
    """What the command prints, from a process of its own."""
    command = [*COMMAND, kind, str(training.run), *arguments, "--wait", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def horizons(run: Path) -> list[int]:
    """The updates at which the decay was to end, one after another, as the steps of progress tell."""
    trace = Trace.read(run / "trace.bin")
    found: list[int] = []
    for k in range(len(trace) - 1):
        p, after = trace[k][0], trace[k + 1][0]
        end = k + (1 - p) / (after - p)
        assert end == pytest.approx(round(end), abs=1e-3)
        if round(end) not in found[-1:]:
            found.append(round(end))
    return found


# Granted

TRUNK = ("--schedule", "const", "--budget", "5000 steps", "--evaluations", "5")


def test_a_budget_is_changed_while_it_trains_and_the_decay_bends_to_each_new_end(tmp_path):
    with Training(tmp_path, "--budget", "5000 steps") as training:
        assert re.fullmatch(
            r"the budget was '5000 steps' and is now '6000 steps'; the decay bends from \d+\.\d% of the way to the new end\n",
            ask(training, "extend", "--by", "1000 steps"),
        )
        assert json.loads((training.run / "budget.json").read_text())["budget"] == "6000 steps"
        assert "is now '4000 steps or 1h'; the decay bends" in ask(training, "extend", "--to", "4000 steps or 1h")
        said = ask(training, "stop", "--in", "30 steps")
        result = training.result()
    end = result["spent"]["steps"]
    assert said == (
        f"the budget is now '{end} steps or 1h', the schedule 'linear': the rate is brought down by its end\n"
    )
    assert result["budget"] == f"{end} steps or 1h"
    assert (result["schedule"], result["stopped_by"], result["progress"]) == ("linear", f"{end} steps", 1.0)
    # At each update the rate falls by what is left of it over the updates that are left: never by more, in no jump.
    assert horizons(training.run) == [5000, 6000, 4000, end]
    assert all(factor == 1 - p for p, factor in Trace.read(training.run / "trace.bin"))
    assert RunFolder(training.run).spec.budget == "5000 steps"
    for folder in ("requests", "answers"):
        assert list((training.run / folder).iterdir()) == []


def test_a_constant_rate_is_brought_down_over_just_the_updates_that_are_left(tmp_path):
    with Training(tmp_path, *TRUNK) as training:
        said = ask(training, "stop", "--in", "30 steps")
        result = training.result()
    assert re.search(r"the schedule 'cooldown\(const, [\d.e-]+, linear\)': the rate is brought down by its end\n", said)
    assert f"'{result['schedule']}'" in said
    assert f"'{result['budget']}'" in said
    factors = [factor for _, factor in Trace.read(training.run / "trace.bin")]
    assert factors[-30:] == pytest.approx([1 - k / 30 for k in range(30)])
    assert set(factors[:-30]) == {1.0}
    assert list(RunFolder(training.run).rows())[-1]["lr"] == 0.0


@pytest.mark.slow
def test_a_time_to_end_in_is_kept_and_the_rate_is_low_by_then(tmp_path):
    arguments = ("--schedule", "const", "--budget", "10min", "--evaluations", "1000")
    with Training(tmp_path, *arguments) as training:
        until(lambda: sum("accuracy" in row for row in training.rows()) > 1)  # what the end will cost is known
        said = ask(training, "stop", "--in", "5s")
        result = training.result()
    limit = re.search(r"the budget is now '([\d.]+)s'", said)
    assert limit is not None
    assert result["budget"] == result["stopped_by"] == f"{limit[1]}s"
    factors = [factor for _, factor in Trace.read(training.run / "trace.bin")]
    cooled = [factor for factor in factors if factor < 1]
    assert factors == [1.0] * (len(factors) - len(cooled)) + sorted(cooled, reverse=True)
    assert result["last_factor"] == factors[-1] < 0.25
    assert list(RunFolder(training.run).rows())[-1]["lr"] == 0.0


# Changed, killed, and gone on with


@pytest.fixture
def budgeted(monkeypatch, capsys):
    """The command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("budgeted.train.loop.process_age", lambda: 0.0)  # this process is that of all tests

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit, match=r"^\d+$") as end:
            main(list(arguments))
        return (int(str(end.value)), *capsys.readouterr())

    return run


def error(outcome: tuple[int, str, str]) -> str:
    """The one line of a refusal."""
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    return err


def go_on(budgeted, run: Path) -> dict:
    code, out, err = budgeted("train", "--resume", str(run), "--no-curve", "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.slow
def test_a_changed_run_that_is_killed_goes_on_under_the_change(tmp_path, budgeted):
    with Training(tmp_path, *TRUNK, "--save-every", "50ms") as training:
        ask(training, "stop", "--in", "200 steps", "--cooldown", "cosine")
        changed = (training.run / "last.pt").stat().st_mtime_ns
        until(lambda: (training.run / "previous.pt").stat().st_mtime_ns > changed)  # a checkpoint began after it
        training.process.kill()
        training.process.wait()
    assert_gone_on_with(go_on(budgeted, training.run), training.run)


@pytest.mark.slow
def test_a_run_that_is_killed_right_after_its_answer_goes_on_under_the_change(tmp_path, budgeted):
    with Training(tmp_path, *TRUNK) as training:
        ask(training, "stop", "--in", "200 steps", "--cooldown", "cosine")
        training.process.kill()
        training.process.wait()
    assert_gone_on_with(go_on(budgeted, training.run), training.run)


def assert_gone_on_with(result: dict, run: Path) -> None:
    end = result["spent"]["steps"]
    assert end < 5000
    assert result["budget"] == result["stopped_by"] == f"{end} steps"
    assert result["schedule"].startswith("cooldown(const, ")
    assert horizons(run) == [5000, end]
    factors = [factor for _, factor in Trace.read(run / "trace.bin")]
    assert factors[-200:] == pytest.approx([(1 + math.cos(math.pi * k / 200)) / 2 for k in range(200)])


# Refused


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A run that has long to go; whatever is refused leaves it as it is."""
    with Training(tmp_path_factory.mktemp("busy"), "--budget", "10min or 90000 steps") as training:
        yield training
        assert not (training.run / "budget.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("extend",), "give either --by, what the budget is to have more, or --to, the new budget"),
        (("extend", "--by", "1h", "--to", "2h"), "give either --by"),
        (("extend", "--by", "soon"), "soon"),
        (("extend", "--to", "45 mins or"), "a limit is missing after 'or'"),
        (("extend", "--to", ""), "error: "),
        (("extend", "--by", "until 18:00"), "until 18:00"),
        (("extend", "--by", "1ep"), "'1ep' fits none of its limits"),
        (("extend", "--by", "100 samples"), "samples"),
        (("extend", "--to", "1 steps"), "the new budget '1 steps' is spent already"),
        (("extend", "--to", "1e3 J"), "was not given a counter of energy"),
        (("stop",), "Missing option '--in'"),
        (("stop", "--in", "never"), "never"),
        (("stop", "--in", "1h"), "stop in '1h': the run ends sooner anyway, at '10min'"),
        (("stop", "--in", "1e6 steps"), "the run ends sooner anyway, at '90000 steps'"),
        (("stop", "--in", "5s or 10 steps"), "give one limit, such as 5min or 500 steps"),
        (("stop", "--in", "5s", "--cooldown", "liner"), "did you mean 'linear'?"),
        (("stop", "--in", "5s", "--wait", "long"), "Invalid value for '--wait'"),
    ],
)
def test_what_cannot_be_granted_is_refused_in_one_line(busy, budgeted, arguments, sentence):
    kind, *options = arguments
    assert sentence in error(budgeted(kind, str(busy.run), *options))


@pytest.mark.parametrize("kind", [("extend", "--by", "1h"), ("stop", "--in", "5s")])
def test_where_there_is_no_run_nothing_is_asked(budgeted, tmp_path, kind):
    name, *options = kind
    assert "there is no run folder at" in error(budgeted(name, str(tmp_path / "nowhere"), *options))
    assert "is not a run folder: it has no spec.json" in error(budgeted(name, str(tmp_path), *options))


@pytest.mark.parametrize("again", [("--resume", "{run}"), ("{task}", "--resume", "auto")])
def test_a_second_trainer_is_refused(busy, budgeted, again):
    same = ("--budget", "10min or 90000 steps", "--precision", "float32", "--deterministic", "--out", "{out}")
    arguments = (*again, *(same if "auto" in again else ()))
    places = {"run": busy.run, "task": TINY, "out": busy.run.parent}
    said = error(budgeted("train", "--no-curve", *(argument.format(**places) for argument in arguments)))
    assert f"run '{busy.run}' is being trained by process {busy.process.pid} on host" in said
    assert f"wait for it, or end it with: budgeted stop {busy.run} --in 1min" in said
    assert [path.name for path in busy.run.parent.iterdir()] == [busy.run.name]  # and no other run was begun


@pytest.fixture
def held(busy):
    """The run, in the middle of something that takes long."""
    busy.process.send_signal(signal.SIGSTOP)
    yield busy
    busy.process.send_signal(signal.SIGCONT)


def test_who_gives_up_waiting_has_not_asked(held):
    requests = held.run / "requests"
    asker = subprocess.Popen(
        [*COMMAND, "stop", str(held.run), "--in", "5s", "--wait", "60"], stderr=subprocess.PIPE, text=True
    )
    until(lambda: list(requests.glob("*.json")))
    asker.send_signal(signal.SIGINT)
    _, said = asker.communicate(timeout=60)
    assert asker.returncode == 130
    assert re.fullmatch(r"\s*interrupted[^\n]*\n", said)
    assert list(requests.glob("*.json")) == []


def test_a_run_that_is_slow_to_answer_is_still_asked(held, budgeted):
    said = error(budgeted("extend", str(held.run), "--to", "1 steps", "--wait", "0.1"))  # to be refused in the end
    assert "has not answered within 0.1 s, as it does while it evaluates, for instance. The request stays asked" in said
    held.process.send_signal(signal.SIGCONT)
    until(lambda: list((held.run / "answers").glob("*.json")))
    answer = json.loads(next((held.run / "answers").glob("*.json")).read_text())
    assert answer["refused"] == "the new budget '1 steps' is spent already"


def test_a_run_that_nobody_trains_is_not_asked(budgeted, tmp_path):
    with Training(tmp_path, "--budget", "5000 steps") as training:
        training.process.send_signal(signal.SIGTERM)
        assert training.process.wait(60) == 130
    for kind, option, change in (("extend", "--by", "--extend"), ("stop", "--in", "--shorten")):
        said = error(budgeted(kind, str(training.run), option, "10 steps"))
        assert "is not being trained, so nobody hears a request" in said
        assert said.endswith(f"budgeted train --resume {training.run} {change} --budget ...\n")
    assert not (training.run / "requests").exists()


def test_a_run_that_has_ended_is_not_asked(budgeted, tmp_path):
    code, _, _ = budgeted(
        "train", TINY, "--precision", "float32", "--no-curve", "--budget", "1ep", "--out", str(tmp_path)
    )
    assert code == 0
    run = next(tmp_path.iterdir())
    assert "is not being trained, so nobody hears a request" in error(budgeted("extend", str(run), "--by", "1ep"))
    assert "is not being trained" in error(budgeted("stop", str(run), "--in", "5 steps"))
