"""The example of several processes: torchrun itself, gloo, and what befalls one rank.

`torchrun tests/examples/test_distributed.py ...` is one of its ranks: the example, which writes down each rate.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import budgeted

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 0.1  # the example's
pytestmark = pytest.mark.slow


def train_as_a_rank() -> None:
    """Run the example; `BEFALLS` is a rank, an update and the signal that comes to it once there."""
    sys.path.insert(0, str(EXAMPLES))
    import distributed

    attach, rank, notes = budgeted.attach, int(os.environ["RANK"]), Path(os.environ["NOTES"])
    victim, update, number = json.loads(os.environ.get("BEFALLS", "[null, 0, 0]"))
    mark = notes / "befallen"

    def watched(optimizer, *args, **kwargs):
        run = attach(optimizer, *args, **kwargs)
        file = open(notes / f"{os.environ['TORCHELASTIC_RESTART_COUNT']}-{rank}", "a", buffering=1)  # noqa: SIM115

        def note(*_):
            print(run.ledger.steps, run.progress, optimizer.param_groups[0]["lr"], file=file)
            if rank == victim and run.ledger.steps == update and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), number)

        optimizer.register_step_pre_hook(note)
        return run

    budgeted.attach = watched
    distributed.main()


class Update(NamedTuple):
    number: int
    progress: float
    rate: float


class Outcome(NamedTuple):
    """What torchrun left: its exit status, what was said, and the updates of each start, as each rank noted them."""

    status: int
    said: str
    starts: list[list[list[Update]]]

    def updates(self, start: int = 0) -> list[Update]:
        """Those of one start, which must be the same on all ranks to the last bit."""
        first, *others = self.starts[start]
        for other in others:
            assert other == first
        return first


class Trainer:
    """Runs the example again and again in one folder."""

    def __init__(self, folder: Path) -> None:
        self.out, self._notes = folder / "out", folder
        self._times = 0

    def run(
        self, ranks: int, *arguments: str, befalls: tuple[int, int, int] | None = None, restarts: int = 0
    ) -> Outcome:
        self._times += 1
        notes = self._notes / f"notes-{self._times}"
        notes.mkdir(parents=True)
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={ranks}",
            f"--max-restarts={restarts}",
        ]
        done = subprocess.run(
            [sys.executable, *launch, __file__, "--out", str(self.out), *arguments],
            env=os.environ
            # Without a store of its own, a restart may read where the dead ranks listened, and wait for them.
            | {"OMP_NUM_THREADS": "1", "NOTES": str(notes), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
            | ({"BEFALLS": json.dumps(befalls)} if befalls else {}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        starts = defaultdict(list)
        for path in sorted(notes.glob("*-*")):
            rows = (row.split() for row in path.read_text().splitlines())
            starts[path.name.partition("-")[0]].append([Update(int(n), float(p), float(rate)) for n, p, rate in rows])
        return Outcome(done.returncode, done.stdout + done.stderr, list(starts.values()))

    @property
    def checkpoints(self) -> list[Path]:
        return sorted(self.out.glob("checkpoint-*"))

    @property
    def spent(self) -> dict[str, float]:
        return json.loads((self.checkpoints[-1] / "run.json").read_text())["ledger"]["spent"]

    def weights(self) -> dict[str, torch.Tensor]:
        """Those of the latest checkpoint, whole."""
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        path = self._notes / "whole.pt"
        dcp_to_torch_save(self.checkpoints[-1], path)
        return torch.load(path)["model"]


def require_ok(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.said
    return outcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Trainer, Outcome]:
    """120 updates under DDP on two ranks that nothing befell."""
    trainer = Trainer(tmp_path_factory.mktemp("whole"))
    return trainer, require_ok(trainer.run(2, "--budget=120 steps", "--shard=ddp"))


def assert_same_weights(some, others):
    assert some.keys() == others.keys()
    for name in some:
        torch.testing.assert_close(some[name], others[name], rtol=1e-3, atol=1e-4)


def test_a_budget_in_seconds_gives_all_ranks_the_same_rates_to_its_end(tmp_path):
    trainer = Trainer(tmp_path)
    outcome = require_ok(trainer.run(2, "--budget=3s", "--shard=fsdp", "--every=0.5"))
    updates = outcome.updates()
    assert [u.number for u in updates] == list(range(len(updates)))
    assert all(a.progress <= b.progress and a.rate >= b.rate for a, b in pairwise(updates))
    assert updates[0].rate == RATE
    assert updates[-1].rate < RATE / 10
    assert "ended by 3s" in outcome.said
    assert len(trainer.checkpoints) == 2, "as many are kept"
    assert trainer.spent["steps"] == len(updates)
    assert trainer.spent["samples"] == 64 * len(updates), "of all ranks together"


def test_sharded_weights_are_those_of_ddp(whole, tmp_path):
    trainer = Trainer(tmp_path)
    outcome = require_ok(trainer.run(2, "--budget=120 steps", "--shard=fsdp"))
    assert outcome.updates() == whole[1].updates()
    assert_same_weights(trainer.weights(), whole[0].weights())


def test_a_signal_to_one_rank_stops_all_and_any_number_of_ranks_goes_on(whole, tmp_path):
    trainer, command = Trainer(tmp_path), "--budget=120 steps"
    updates = []
    for ranks, shard, befalls in [
        (2, "ddp", (1, 40, signal.SIGTERM)),
        (4, "fsdp", (3, 80, signal.SIGUSR1)),
        (2, "ddp", None),
    ]:
        before = len(trainer.checkpoints)
        outcome = require_ok(trainer.run(ranks, command, f"--shard={shard}", "--every=1000", befalls=befalls))
        assert (f"resumed at update {len(updates)} on {ranks} ranks" in outcome.said) == bool(updates)
        updates += outcome.updates()
        assert ("interrupted by" in outcome.said) == bool(befalls)
        assert len(trainer.checkpoints) == min(before + 1, 2), "one more, of which two are kept"
        assert trainer.spent["steps"] == len(updates), "nothing is lost"
        assert trainer.spent["samples"] == 64 * len(updates)
        if befalls:
            assert befalls[1] < len(updates) < 120
    assert updates == whole[1].updates(), "the rates are those of a run that was never stopped"
    assert_same_weights(trainer.weights(), whole[0].weights())


def test_where_a_rank_dies_the_others_end_and_it_is_named(tmp_path):
    trainer = Trainer(tmp_path)
    outcome = trainer.run(2, "--budget=10min", befalls=(1, 40, signal.SIGKILL))
    assert outcome.status != 0
    assert "Root Cause (first observed failure)" in outcome.said
    assert "Signal 9 (SIGKILL) received" in outcome.said
    assert not trainer.checkpoints


def test_torchrun_restarts_what_died_and_what_was_spent_stays_spent(tmp_path):
    trainer = Trainer(tmp_path)
    outcome = require_ok(
        trainer.run(2, "--budget=400 steps or 1h", "--every=0.2", befalls=(1, 250, signal.SIGKILL), restarts=3)
    )
    assert len(outcome.starts) == 2
    before, after = outcome.starts[0][0], outcome.updates(1)
    resumed = after[0].number
    assert f"resumed at update {resumed} on 2 ranks" in outcome.said
    assert 0 < resumed <= 250
    assert after[0] == before[resumed], "progress and rate are what they were"
    assert [u.number for u in after] == list(range(resumed, 400))
    assert trainer.spent["steps"] == 400


if __name__ == "__main__":
    train_as_a_rank()
