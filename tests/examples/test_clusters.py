"""The recipes for clusters and spot machines, run: SLURM and the clouds' metadata by stand-ins, the trainer by itself."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import tiny_task
from budgeted.cli.main import main
from budgeted.core.record import RunFolder
from budgeted.train import checkpoint

ROOT = Path(__file__).parents[2]
SCRIPT, WATCH = ROOT / "examples" / "slurm" / "train.sbatch", ROOT / "examples" / "spot" / "watch.sh"
PAGE = ROOT / "docs" / "clusters.md"
TINY = f"{tiny_task.__file__}:Tiny"
OPTIONS = ("--precision", "float32", "--no-curve", "--deterministic", "--json")


def until(true: Callable[[], object]) -> None:
    """Wait for what other processes are to do."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not happen within a minute"
        time.sleep(0.01)


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# A stand-in for SLURM


def sbatch_options() -> argparse.ArgumentParser:
    """The options of sbatch that the recipes use, in the forms that sbatch takes."""

    def like(form: str) -> Callable[[str], str]:
        def check(text: str) -> str:
            if not re.fullmatch(form, text):
                raise argparse.ArgumentTypeError(f"'{text}' is not like {form}")
            return text

        return check

    options = argparse.ArgumentParser(prog="sbatch", add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--nodes", "--gpus", "--cpus-per-task"):
        options.add_argument(name, type=int)
    options.add_argument("--time", type=like(r"(\d+-)?\d\d:\d\d:\d\d"))
    options.add_argument("--signal", type=like(r"B:(USR1|TERM)@\d{1,5}"))
    options.add_argument("--open-mode", choices=["append", "truncate"], default="truncate")
    options.add_argument("--requeue", action=argparse.BooleanOptionalAction, default=False)
    options.add_argument("--output", default="slurm-%j.out")
    options.add_argument("--job-name")
    options.add_argument("--wrap")
    return options


SCONTROL = """#!/bin/sh
echo "$@" >> "$CALLS"
if [ "$REQUEUE" = True ] && [ "$1 $2" = "requeue $SLURM_JOB_ID" ]; then
    touch "$CALLS.granted"
    kill -TERM "$PPID"  # what runs on is ended
else
    echo "scontrol: Requested operation is presently disabled for job $2" >&2
    exit 1
fi
"""


class Job:
    """A job that was submitted; the test starts it, and says what becomes of it."""

    def __init__(self, folder: Path, *arguments: str, number: int = 4711, trainer: str | None = None) -> None:
        self.folder, self.number, self.restarts = folder, number, 0
        self.submitted = time.monotonic()
        self.given, rest = self._parse(arguments)
        self.name = self.given.job_name or (Path(rest[0]).name if rest else "wrap")
        self.command = ["bash", *rest] if rest else ["sh", "-c", self.given.wrap]
        self.log = folder / self.given.output.replace("%x", self.name).replace("%j", str(self.number))
        self.calls = folder / "scontrol.calls"
        self.busy = 0.0  # seconds in which the job had its machine
        commands = folder / "bin"
        commands.mkdir(exist_ok=True)
        executable(commands / "scontrol", SCONTROL)
        executable(commands / "budgeted", trainer or f'#!/bin/sh\nexec {sys.executable} -m budgeted.cli.main "$@"\n')

    @staticmethod
    def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """What sbatch makes of its options, of the script's, and of the script's own arguments."""
        at = next((i for i, argument in enumerate(arguments) if not argument.startswith("--")), len(arguments))
        if arguments[at - 1 : at] == ("--wrap",):
            at += 1
        options, rest = list(arguments[:at]), list(arguments[at:])
        written: list[str] = []
        for line in Path(ROOT, rest[0]).read_text().splitlines() if rest else ():
            if line and not line.startswith("#"):
                break  # sbatch reads no further than the first command
            if line.startswith("#SBATCH "):
                written += shlex.split(line.removeprefix("#SBATCH "))
        if rest:
            rest[0] = str(ROOT / rest[0])
        return sbatch_options().parse_args(written + options), rest

    def start(self) -> None:
        """Have the script begun, and go on."""
        now = time.time()
        (self.folder / "scontrol.calls.granted").unlink(missing_ok=True)
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NAME": self.name,
            "SLURM_JOB_START_TIME": str(int(now)),
            "SLURM_JOB_END_TIME": str(int(now + 4 * 3600)),
            "CALLS": str(self.calls),
            "REQUEUE": str(self.given.requeue),
        }
        if self.restarts:
            environment["SLURM_RESTART_COUNT"] = str(self.restarts)
        self._began = time.monotonic()
        with self.log.open("a" if self.given.open_mode == "append" else "w") as log:
            self.shell = subprocess.Popen(
                self.command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def trained(self, updates: int) -> None:
        """Wait until the run is so far."""
        until(lambda: self.shell.poll() is not None or self._steps() >= updates)
        assert self.shell.poll() is None, self.log.read_text()

    def _steps(self) -> int:
        runs = self.folder.glob("runs/*/[!.]*/spec.json")
        return max((row["steps"] for run in runs for row in RunFolder(run.parent).rows()), default=0)

    def warn(self) -> bool:
        """The job's end is near: the signal that was asked for, to whom it was asked for. Whether it was requeued."""
        assert self.given.signal.startswith("B:")
        self.shell.send_signal(getattr(signal, f"SIG{self.given.signal[2:].partition('@')[0]}"))
        return self.ended()

    def preempt(self) -> bool:
        """The machine is wanted for another job. Whether this one was requeued."""
        self.cancel()
        self.restarts += self.given.requeue
        return self.given.requeue

    def cancel(self) -> None:
        """`scancel`: SLURM ends every process of the job."""
        for number in (signal.SIGCONT, signal.SIGTERM):
            os.killpg(self.shell.pid, number)
        self._wait()

    def ended(self) -> bool:
        """Wait for the script's own end. Whether the job was requeued."""
        self._wait()
        granted = (self.folder / "scontrol.calls.granted").exists()
        self.restarts += granted
        return granted

    def _wait(self) -> None:
        self.code = self.shell.wait(60)
        self.busy += time.monotonic() - self._began
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGKILL)  # with its script a job is over

    def requeues(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "last.pt", torch.device("cpu"))["model"]


# Many jobs


@pytest.mark.slow
def test_a_budget_is_spent_in_as_many_jobs_as_it_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_SECONDS", "0.01")
    budget = ("--budget", "400 steps")
    submitted = ("--job-name=tiny", str(SCRIPT), TINY, *budget, *OPTIONS)
    job = Job(tmp_path, *submitted)
    job.start()
    job.trained(50)
    assert job.warn()  # the script asked for another
    assert (job.code, job.requeues()) == (130, [f"requeue {job.number}"])
    time.sleep(1)
    job.start()
    job.trained(150)
    assert job.preempt()  # SLURM requeues it, and the script does not ask
    assert (job.code, job.requeues()) == (130, [f"requeue {job.number}"])
    time.sleep(1)
    job.start()
    job.trained(250)
    job.cancel()  # nobody requeues it
    assert (job.code, job.requeues()) == (130, [f"requeue {job.number}"])
    again = Job(tmp_path, *submitted, number=4712)
    again.start()
    assert not again.ended()
    assert again.code == 0

    log = job.log.read_text()
    stops = re.findall(r"(SIG\w+): stopped after update (\d+) and saved", log)
    assert [name for name, _ in stops] == ["SIGUSR1", "SIGTERM", "SIGTERM"]
    assert log.count("it is for SLURM to requeue this job, or not") == 2
    run = next((tmp_path / "runs" / "tiny").glob("[!.]*/"))
    result = RunFolder(run).result
    assert (result["spent"]["steps"], result["stopped_by"], result["progress"]) == (400, "400 steps", 1.0)
    assert result["spent"]["seconds"] < job.busy + again.busy  # the time between the jobs is not charged
    assert job.busy + again.busy + 2 < time.monotonic() - job.submitted

    monkeypatch.setenv("TINY_SECONDS", "0")
    whole = [sys.executable, "-m", "budgeted.cli.main", "train", TINY, *budget, *OPTIONS, "--out", tmp_path / "whole"]
    subprocess.run(whole, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    undisturbed = weights(next((tmp_path / "whole").glob("[!.]*")))
    assert undisturbed.keys() == weights(run).keys()
    assert all(torch.equal(tensor, undisturbed[name]) for name, tensor in weights(run).items())

    again.start()  # a node failed after the end, and the job is begun once more
    assert not again.ended()
    assert (again.code, "job 4712 has finished its run already" in again.log.read_text()) == (0, True)
    assert len(list((tmp_path / "runs" / "tiny").glob("[!.]*/"))) == 1


LISTENS = """#!/bin/bash
mkdir -p runs/tiny/run
trap 'exit 130' USR1
{before}
touch listening
for i in {{1..600}}; do sleep 0.1; done
"""
UPDATE = "head -c 16 /dev/zero >> runs/tiny/run/trace.bin"


@pytest.mark.parametrize(
    ("before", "restarts", "sentence"),
    [
        (UPDATE, 3, ""),
        ("", 0, "this job ended before it made an update, so another of its length is not asked for; give more --time"),
        ("trap - USR1", 0, "this job ended before it made an update"),  # the signal comes while Python starts
    ],
)
def test_a_job_is_requeued_as_long_as_it_gets_anywhere(tmp_path, before, restarts, sentence):
    job = Job(tmp_path, "--job-name=tiny", str(SCRIPT), trainer=LISTENS.format(before=before))
    for _ in range(3):
        job.start()
        until((tmp_path / "listening").exists)
        (tmp_path / "listening").unlink()
        if not job.warn():
            break
    assert job.restarts == restarts == len(job.requeues())
    assert sentence in job.log.read_text()


SAVES = "trap : TERM; trap 'for i in {1..10}; do sleep 0.1; done; touch saved; exit 130' USR1"


def test_further_signals_do_not_cut_the_last_checkpoint_short(tmp_path):
    job = Job(tmp_path, "--job-name=tiny", str(SCRIPT), trainer=LISTENS.format(before=f"{UPDATE}; {SAVES}"))
    job.start()
    until((tmp_path / "listening").exists)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
        job.shell.send_signal(number)
        time.sleep(0.1)
    assert job.ended()
    assert (job.code, (tmp_path / "saved").exists()) == (130, True)


@pytest.mark.parametrize("code", [1, 2, 137, 143])
def test_a_run_that_fails_is_not_requeued(tmp_path, code):
    job = Job(tmp_path, "--job-name=tiny", str(SCRIPT), trainer=f"#!/bin/sh\nexit {code}\n")
    job.start()
    assert not job.ended()
    assert (job.code, job.requeues()) == (code, [])


def test_a_site_that_does_not_requeue_is_said(tmp_path):
    job = Job(tmp_path, "--no-requeue", "--job-name=tiny", str(SCRIPT), trainer=LISTENS.format(before=UPDATE))
    job.start()
    until((tmp_path / "listening").exists)
    assert not job.warn()
    assert (job.code, job.requeues()) == (130, [f"requeue {job.number}"])
    assert "submit this again, and the run goes on" in job.log.read_text()


def test_the_stand_in_refuses_what_sbatch_would():
    for wrong in ("--sginal=B:USR1@120", "--time=4h", "--signal=B:SIGUSER@120"):
        with pytest.raises((argparse.ArgumentError, SystemExit)):
            sbatch_options().parse_args([wrong])


# One job


@pytest.mark.slow
def test_the_rate_reaches_its_end_when_the_job_does(tmp_path, monkeypatch, capsys):
    for user in ("budgeted.train.loop", "budgeted.cli.train"):
        monkeypatch.setattr(f"{user}.process_age", lambda: 0.0)  # this process is that of all tests

    def train(budget: str) -> dict:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["train", TINY, *OPTIONS, "--budget", budget, "--out", str(tmp_path)])
        return json.loads(capsys.readouterr().out)

    train("1ep")  # which has all imported that a run imports
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 7))
    result = train("slurm - 2s")
    assert (result["stopped_by"], result["progress"]) == ("slurm - 2s", 1.0)
    assert result["last_factor"] < 0.25


# Spot machines


class Metadata(BaseHTTPRequestHandler):
    """What a cloud tells its machines: AWS's to those that hold a token, Google's to those that say its name."""

    taken_away = threading.Event()

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
        self.tell(200, "the token") if known else self.tell(400)

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != "the token":
                self.tell(401)
            elif self.taken_away.is_set():
                self.tell(200, '{"action": "terminate", "time": "2026-11-24T18:02:00Z"}')
            else:
                self.tell(404)
        elif self.path == "/computeMetadata/v1/instance/preempted":
            google = self.headers["Metadata-Flavor"] == "Google"
            self.tell(200, str(self.taken_away.is_set()).upper()) if google else self.tell(403)
        else:
            self.tell(404)

    def tell(self, code: int, text: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def metadata(monkeypatch) -> Iterator[threading.Event]:
    """The metadata of the machine, as the watcher finds it; set, the machine is to be taken away."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    monkeypatch.setenv("METADATA_URL", f"http://127.0.0.1:{server.server_address[1]}")
    Metadata.taken_away.clear()
    yield Metadata.taken_away
    server.shutdown()
    server.server_close()


def watched(cloud: str, *command: str, **given: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [WATCH, cloud, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given
    )


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_command_is_told_when_the_machine_is_taken_away(metadata, tmp_path, cloud):
    command = "trap 'exit 130' TERM; touch listening; for i in {1..600}; do sleep 0.1; done"
    with watched(cloud, "bash", "-c", command, cwd=tmp_path) as process:
        until((tmp_path / "listening").exists)
        time.sleep(2.5)  # it is asked, and says no
        assert process.poll() is None
        metadata.set()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == f"watch.sh: {cloud} takes this machine away; SIGTERM to process {process.pid}\n"


@pytest.mark.slow
def test_a_run_is_saved_and_goes_on_on_the_next_machine(metadata, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TINY_SECONDS", "0.01")
    train = (
        sys.executable,
        "-m",
        "budgeted.cli.main",
        "train",
        TINY,
        "--budget",
        "500 steps",
        *OPTIONS,
        "--resume",
        "auto",
    )
    with watched("aws", *train, cwd=tmp_path) as process:
        until(lambda: any(path.stat().st_size for path in tmp_path.glob("runs/[!.]*/rows.jsonl")))
        metadata.set()
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "SIGTERM: stopped after update" in said) == (130, True)
    metadata.clear()
    monkeypatch.setenv("TINY_SECONDS", "0")
    with watched("aws", *train, cwd=tmp_path) as process:
        out, said = process.communicate(timeout=60)
    assert (process.returncode, said, json.loads(out)["spent"]["steps"]) == (0, "", 500)
    assert len(list(tmp_path.glob("runs/[!.]*"))) == 1


def test_the_exit_code_is_the_commands(metadata):
    with watched("gcp", "sh", "-c", "exit 3") as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (3, "")


def test_metadata_that_cannot_be_reached_are_said_once(monkeypatch):
    monkeypatch.setenv("METADATA_URL", "http://127.0.0.1:9")
    with watched("aws", "sleep", "3") as process:
        _, said = process.communicate(timeout=60)
    assert said == "watch.sh: no answer from http://127.0.0.1:9, so no warning can be heard\n"


def test_another_cloud_is_refused():
    with watched("azure", "true") as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, "usage: watch.sh aws|gcp COMMAND...\n")


# The page


def commands(start: str) -> list[str]:
    blocks = re.findall(r"```(?:\w*)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line.partition("  #")[0] for block in blocks for line in block.splitlines() if line.startswith(start)]


def test_the_page_submits_what_sbatch_takes(tmp_path):
    shown = commands("sbatch ")
    assert len(shown) >= 3
    for line in shown:
        Job(tmp_path, *shlex.split(line)[1:])


def test_the_scripts_are_bash():
    for script in (SCRIPT, WATCH):
        subprocess.run(["bash", "-n", script], check=True)
    assert os.access(WATCH, os.X_OK)
