"""Runs that train their first part together are, to the bit, those that were trained alone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

import tiny_task
from budgeted import BudgetedError
from budgeted.core.errors import Interrupted
from budgeted.core.record import RunFolder, Spec
from budgeted.train import checkpoint
from budgeted.train.loop import fit
from budgeted.train.together import Member, alike, fit_together


def spec(budget: str, schedule: str, **more) -> Spec:
    return Spec("tiny", budget, schedule, **{"deterministic": True, **more})


def exhaust(training):
    rows = []
    while True:
        try:
            rows.append(next(training))
        except StopIteration as end:
            return rows, end.value


def alone(parent, what: Spec, task=tiny_task.Tiny, **options) -> RunFolder:
    folder = RunFolder.create(parent, what)
    exhaust(fit(task(), what, folder, **options))
    return folder


def together(parent, specs, task=tiny_task.Tiny, **options) -> tuple[list[RunFolder], list[list[Spec]]]:
    """All of them, in groups as they part; and the groups that there were."""
    folders = {what.name: RunFolder.create(parent, what) for what in specs}
    waiting, seen = [list(specs)], []
    while waiting:
        group = waiting.pop(0)
        seen.append(group)
        if len(group) == 1:
            exhaust(fit(task(), group[0], folders[group[0].name], **options))
            continue
        _, parted = exhaust(fit_together([Member(task(), s, folders[s.name]) for s in group], **options))
        assert parted.results.keys() | {n for g in parted.groups for n in g} == set(range(len(group)))
        waiting += [[group[n] for n in numbers] for numbers in parted.groups]
    return list(folders.values()), seen


TIMES = ("seconds", "left", "set_up")


def record(folder: RunFolder):
    """All that a run says of itself but what time it took."""
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in folder.rows()]
    result = {
        k: v
        for k, v in (folder.result or {}).items()
        if k not in ("activities", "wall_seconds", "run_dir", "shared_updates")
    }
    result["spent"] = {k: v for k, v in result["spent"].items() if k != "seconds"}
    return rows, result


def same_tensors(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tensors(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_tensors, one, other))
    return one == other


CONSTANT = [spec("3ep", "const"), spec("47 steps", "const"), spec("12ep", "const")]
DROPS = [spec("12ep", "const"), spec("10ep", "step-d1"), spec("12ep", "step-d2"), spec("6ep", "step-d3")]
STOPPED = [spec(budget, "exp.97 over 12ep") for budget in ("2ep", "5ep", "12ep")]
TRUNK = [spec(budget, "warmup(13 steps, wsd)") for budget in ("5ep", "9ep")]


@pytest.mark.parametrize("specs", [CONSTANT, DROPS, STOPPED, TRUNK], ids=["constant", "drops", "stopped", "trunk"])
def test_together_is_as_alone_to_the_bit(tmp_path, specs):
    folders, groups = together(tmp_path / "together", specs)
    assert len(groups) > 1 or specs in (CONSTANT, STOPPED)
    for what, folder in zip(specs, folders, strict=True):
        reference = alone(tmp_path / "alone", what)
        rows, result = record(folder)
        expected_rows, expected = record(reference)
        assert rows == expected_rows
        assert result == expected
        ours, theirs = (checkpoint.load(f.path / "last.pt", torch.device("cpu")) for f in (folder, reference))
        for part in ("model", "optimizer", "random"):
            assert same_tensors(ours[part], theirs[part]), part
        best, wanted = (checkpoint.read_weights(f.path / checkpoint.BEST) for f in (folder, reference))
        assert best[1] == wanted[1]
        assert same_tensors(best[0], wanted[0])
        assert (folder.path / "trace.bin").read_bytes() == (reference.path / "trace.bin").read_bytes()


def test_what_is_shared_is_trained_once(tmp_path, monkeypatch):
    updates = 0
    real = tiny_task.Tiny.loss

    def counted(self, model, batch):
        nonlocal updates
        updates += model.training and torch.is_grad_enabled()
        return real(self, model, batch)

    monkeypatch.setattr(tiny_task.Tiny, "loss", counted)
    folders, _ = together(tmp_path, CONSTANT, keep="figures")
    made = sum(folder.result["spent"]["steps"] for folder in folders)
    assert (made, updates) == (30 + 47 + 120, 120)
    assert sum(folder.result["shared_updates"] for folder in folders) == made - updates


def test_an_evaluation_of_the_same_weights_is_made_once(tmp_path, monkeypatch):
    evaluations = 0
    real = tiny_task.Tiny.evaluate

    def counted(self, model, data):
        nonlocal evaluations
        evaluations += 1
        return real(self, model, data)

    monkeypatch.setattr(tiny_task.Tiny, "evaluate", counted)
    together(tmp_path, [replace(s, refresh=False) for s in (CONSTANT[0], CONSTANT[2])], keep="figures")
    assert evaluations == 12


@pytest.mark.parametrize("keep", ["best", "figures"])
def test_what_is_kept_of_a_finished_run(tmp_path, keep):
    folders, _ = together(tmp_path, DROPS, keep=keep)
    for folder in folders:
        assert not list(folder.path.glob("*.pt"))
        assert (folder.path / checkpoint.BEST).exists() == (keep == "best")


@pytest.mark.parametrize("at", [1, 9, 14])
def test_stopped_on_the_way_they_go_on_to_the_same_bits(tmp_path, monkeypatch, at):
    """By a signal, whose checkpoints are of the very update."""
    folders = [RunFolder.create(tmp_path / "stopped", what) for what in DROPS]
    updates = 0
    real = tiny_task.Tiny.loss

    def stopping(self, model, batch):
        nonlocal updates
        updates += model.training and torch.is_grad_enabled()
        if updates == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_task.Tiny, "loss", stopping)
        with pytest.raises(Interrupted, match="SIGTERM: stopped and saved"):
            exhaust(fit_together([Member(tiny_task.Tiny(), s, f) for s, f in zip(DROPS, folders, strict=True)]))
    for what, folder in zip(DROPS, folders, strict=True):
        exhaust(fit(tiny_task.Tiny(), what, folder))
        assert record(folder) == record(alone(tmp_path / "alone", what))


@pytest.mark.parametrize("at", [10, 20, 30])
def test_stopped_in_an_evaluation_they_go_on_together_to_the_same_bits(tmp_path, monkeypatch, at):
    """What the signal left undone, an evaluation or the very end of some of them, is done first."""
    specs = [spec("3ep", "const"), spec("12ep", "const"), spec("3ep", "const over 9ep"), spec("6ep", "step-d1")]
    real = tiny_task.Tiny.evaluate
    evaluations = 0

    def stopping(self, model, data):
        nonlocal evaluations
        evaluations += 1
        if evaluations == at // 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, model, data)

    without = [replace(what, refresh=False) for what in specs]
    folders = {what.name: RunFolder.create(tmp_path / "stopped", what) for what in without}
    with monkeypatch.context() as patch:
        patch.setattr(tiny_task.Tiny, "evaluate", stopping)
        with pytest.raises(Interrupted, match="SIGTERM: stopped and saved"):
            exhaust(fit_together([Member(tiny_task.Tiny(), s, folders[s.name]) for s in without]))
    waiting = [[what for what in without if folders[what.name].result is None]]
    rounds = 0
    while waiting:
        group, rounds = waiting.pop(), rounds + 1
        assert rounds < 20
        _, parted = exhaust(fit_together([Member(tiny_task.Tiny(), s, folders[s.name]) for s in group]))
        waiting += [[group[n] for n in numbers] for numbers in parted.groups]
    for what in without:
        (rows, result), (expected_rows, expected) = record(folders[what.name]), record(alone(tmp_path / "alone", what))
        assert rows == expected_rows
        assert result == expected


def test_runs_that_parted_and_meet_again_are_not_taken_for_the_same(tmp_path):
    """step(1/4, 3/4) and step(1/2) run at the same rate from the half on, but not from the same weights."""
    specs = [spec("80 steps", text) for text in ("step(0.25, 0.75)", "step(0.5)")]
    folders = [RunFolder.create(tmp_path / "met", what) for what in specs]
    for what, folder in zip(specs, folders, strict=True):
        training = fit(tiny_task.Tiny(), what, folder, save_every=0.0)
        for row in training:
            if row["steps"] == 50:
                training.close()
                break
    _, parted = exhaust(fit_together([Member(tiny_task.Tiny(), s, f) for s, f in zip(specs, folders, strict=True)]))
    assert parted.groups == [[0], [1]]
    for what, folder in zip(specs, folders, strict=True):
        exhaust(fit(tiny_task.Tiny(), what, folder))
        assert record(folder) == record(alone(tmp_path / "alone", what))


def test_those_that_stand_elsewhere_are_parted_at_once(tmp_path):
    """After a kill amid their checkpoints."""
    folders = [RunFolder.create(tmp_path, what) for what in CONSTANT]
    first = fit(tiny_task.Tiny(), CONSTANT[2], folders[2], save_every=0.0)
    for row in first:
        if row["steps"] == 9:
            first.close()
            break
    _, parted = exhaust(fit_together([Member(tiny_task.Tiny(), s, f) for s, f in zip(CONSTANT, folders, strict=True)]))
    assert parted.groups == [[0, 1], [2]]
    assert not parted.results


def test_a_loss_that_explodes_is_said(tmp_path):
    folders = [RunFolder.create(tmp_path, what) for what in CONSTANT]
    with pytest.raises(BudgetedError, match="the loss was nan at update 25"):
        exhaust(fit_together([Member(tiny_task.Explodes(), s, f) for s, f in zip(CONSTANT, folders, strict=True)]))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (spec("3ep", "const", seed=1), "differ in more than budget and schedule"),
        (spec("3ep", "const", average="ema"), "differ in more than budget and schedule"),
        (spec("20s", "const"), "cannot be trained together"),
        (spec("3ep", "one-cycle"), "cannot be trained together"),
        (spec("3ep", "plateau"), "cannot be trained together"),
    ],
)
def test_what_cannot_be_shared_is_refused(tmp_path, other, why):
    members = [Member(tiny_task.Tiny(), s, RunFolder.create(tmp_path, s)) for s in (CONSTANT[0], other)]
    with pytest.raises(BudgetedError, match=why):
        exhaust(fit_together(members))


def test_two_averages_of_the_weights_are_not_alike():
    """How far they look back depends on the budget."""
    assert not alike(spec("3ep", "const", average="ema"), spec("6ep", "const", average="ema"))
