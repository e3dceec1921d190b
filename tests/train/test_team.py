"""One run in several processes, started by torchrun: real ranks on gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tiny_task
from budgeted.core.record import RunFolder
from budgeted.core.trace import Trace
from budgeted.train import checkpoint
from budgeted.train.data import Batch
from budgeted.train.stream import Stream
from budgeted.train.team import Team

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
TASK = "tiny_task:Plain"


def launch(root: Path, ranks: int, *arguments: str, seconds: float = 0.0, restarts: int = 0) -> subprocess.Popen[str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TINY_SECONDS": str(seconds),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # PyTorch: a restart would meet the dead ranks' addresses
        "PYTHONPATH": str(Path(tiny_task.__file__).parent),
    }
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={restarts}",
    ]
    command = [sys.executable, *torchrun, "-m", "budgeted.cli.main", "train", *arguments, "--no-curve", "--json"]
    return subprocess.Popen(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out)


def weights(result: dict, root: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(root / result["run_dir"] / "last.pt", CPU)["model"]


def rank_pids(process: subprocess.Popen[str], ranks: int) -> list[int]:
    """The ranks' processes, rank 0 first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = next((v.partition(b"=")[2] for v in variables if v.startswith(b"RANK=")), None)
        if rank is not None:
            found[int(rank)] = child
    assert len(found) == ranks
    return [found[rank] for rank in sorted(found)]


def await_updates(root: Path, count: int) -> RunFolder:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for path in root.glob("runs/[!.]*/rows.jsonl"):
            if any(row["steps"] >= count for row in RunFolder(path.parent).rows()):
                return RunFolder(path.parent)
        time.sleep(0.02)
    raise AssertionError(f"no update {count} within two minutes")


def test_a_batch_is_split_so_that_the_mean_of_the_ranks_is_its_own():
    batch = Batch(torch.arange(7.0).reshape(7, 1), torch.arange(7))
    for count in (2, 3, 4, 9):
        parts = [Team(rank, count).part(batch) for rank in range(count)]
        mean = sum(part.inputs.mean().item() * weight for part, weight in parts) / count
        assert mean == pytest.approx(3.0)
        rows = sorted(int(t) for part, weight in parts if weight for t in part.targets)
        assert rows == list(range(7))


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_parts_of_samples_from_files_weigh_what_parts_of_batches_weigh(count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tiny_task.Read, "damaged", -1)
    stream = Stream(tiny_task.Read(), 7, tiny_task.join, CPU)  # 11 batches of 7 and one of 3
    for rank in range(count):
        team = Team(rank, count)
        expected = [team.part(batch) for batch in stream.epoch(0, 1, 2)]
        found = list(team.parts(stream, 0, 1, 2))
        assert [weight for _, weight in found] == [weight for _, weight in expected]
        assert all(torch.equal(a.inputs, b.inputs) for (a, _), (b, _) in zip(found, expected, strict=True))


def test_so_many_ranks_train_as_one_does(tmp_path):
    arguments = (TASK, "--budget", "3ep", "--schedule", "cosine", "--deterministic")
    one, two = (finished(launch(tmp_path, ranks, *arguments)) for ranks in (1, 2))
    assert two["spent"]["steps"] == one["spent"]["steps"] == 30
    assert two["spent"]["samples"] == one["spent"]["samples"] == 240
    traces = [list(Trace.read(tmp_path / result["run_dir"] / "trace.bin")) for result in (one, two)]
    assert traces[0] == traces[1]
    a, b = weights(one, tmp_path), weights(two, tmp_path)
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_each_rank_reads_its_own_samples_alone_and_the_damaged_ones_of_all_are_counted(tmp_path):
    roots = {ranks: tmp_path / str(ranks) for ranks in (1, 2)}
    results = {}
    for ranks, root in roots.items():
        root.mkdir()
        results[ranks] = finished(launch(root, ranks, "tiny_task:FromFiles", "--budget", "2ep", "--deterministic"))
    a, b = (weights(results[ranks], root) for ranks, root in roots.items())
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)
    read = {path.name: path.read_text().split() for path in roots[2].glob("read-*.txt")}
    assert sorted(map(len, read.values())) == [80, 80]  # of the 160 in two epochs
    assert sorted(read["read-0.txt"] + read["read-1.txt"]) == sorted(
        roots[1].joinpath("read-0.txt").read_text().split()
    )
    assert [result["skipped_samples"] for result in results.values()] == [1, 1]


def test_a_signal_to_one_rank_stops_all_with_one_checkpoint_and_other_ranks_go_on(tmp_path):
    arguments = (TASK, "--budget", "30ep", "--deterministic", "--resume", "auto")
    process = launch(tmp_path, 2, *arguments, seconds=0.01)
    folder = await_updates(tmp_path, 20)
    os.kill(rank_pids(process, 2)[1], signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    saved = int(checkpoint.load(folder.path / "last.pt", CPU)["run"]["ledger"]["spent"]["steps"])
    assert saved == len(Trace.read(folder.path / "trace.bin")) < 300
    result = finished(launch(tmp_path, 4, *arguments))
    assert (result["run_dir"], result["spent"]["steps"]) == (f"runs/{folder.path.name}", 300)
    whole = finished(launch(tmp_path, 1, TASK, "--budget", "30ep", "--deterministic", "--out", "whole"))
    a, b = weights(whole, tmp_path), weights(result, tmp_path)
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_a_killed_rank_is_restarted_with_all_others_and_the_run_ends_as_it_should(tmp_path):
    arguments = (TASK, "--budget", "30ep", "--deterministic", "--resume", "auto", "--save-every", "0.2s")
    process = launch(tmp_path, 2, *arguments, seconds=0.01, restarts=2)
    await_updates(tmp_path, 60)
    os.kill(rank_pids(process, 2)[1], signal.SIGKILL)
    result = finished(process)
    assert result["spent"]["steps"] == 300
    assert result["progress"] == 1.0


def test_another_budget_reaches_all_ranks(tmp_path):
    process = launch(tmp_path, 2, TASK, "--budget", "30ep", "--schedule", "const", seconds=0.01)
    folder = await_updates(tmp_path, 20)
    asked = [sys.executable, "-m", "budgeted.cli.main", "stop", str(folder.path), "--in", "50 steps", "--wait", "60"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
    assert "the schedule 'cooldown(const, " in answer.stdout, answer.stderr
    result = finished(process)
    assert 70 <= result["spent"]["steps"] < 300
    assert result["last_factor"] == pytest.approx(1 / 50, abs=0.01)
