"""Probes and gradient norms of a run that `fit` trains."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import signal
import time

import pytest
import torch

import tiny_task
from budgeted import BudgetError, ScheduleError
from budgeted.core.errors import Interrupted
from budgeted.core.record import PROBED, RunFolder, Spec
from budgeted.train import checkpoint
from budgeted.train.gradients import Norms, norm
from budgeted.train.loop import fit
from budgeted.train.probing import Probing

# The first optimizer of a process imports for a second or more, which no short budget below should pay for.
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)


def spec(budget="5ep", schedule="linear", **options) -> Spec:
    return Spec("tiny", budget, schedule, **{"deterministic": True, **options})


def run_all(folder, what):
    rows, training = [], fit(tiny_task.Tiny(), what, folder)
    while True:
        try:
            rows.append(next(training))
        except StopIteration as end:
            return rows, end.value


def train(tmp_path, what=None):
    what = what or spec()
    folder = RunFolder.create(tmp_path, what)
    return folder, *run_all(folder, what)


def model_of(folder):
    return checkpoint.load(folder.path / "last.pt", torch.device("cpu"))["model"]


def probed(folder):
    return [(row["steps"], row["full_gradient"]) for row in folder.rows() if "full_gradient" in row]


def test_every_row_has_the_mean_norm_of_its_updates(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("budgeted.train.session.norm", lambda p: seen.append(norm(p)) or seen[-1])
    folder, _, _ = train(tmp_path)
    assert [row["gradient"] for row in folder.rows()] == [float(n) for n in seen]


def test_a_norm_is_that_of_all_gradients_together():
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True), torch.zeros(1)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    assert float(norm(parameters)) == 5.0
    assert float(norm([])) == 0.0


def test_the_longer_the_run_the_fewer_norms_are_taken():
    counts = [sum(map(Norms.due, range(2**k))) for k in range(8, 16)]
    assert counts[0] == 256
    assert [b - a for a, b in itertools.pairwise(counts)] == [256] * 7


def test_a_run_with_probes_is_the_run_without(tmp_path):
    plain, *_ = train(tmp_path / "a")
    with_probes, _, _ = train(tmp_path / "b", spec(probes=6))
    torch.testing.assert_close(model_of(plain), model_of(with_probes), rtol=0, atol=0)
    of_both = [{k: v for k, v in row.items() if k not in (*PROBED, "seconds", "left")} for row in with_probes.rows()]
    unprobed = [{k: v for k, v in row.items() if k not in ("seconds", "left")} for row in plain.rows()]
    assert [row for row in of_both if row["steps"]] == unprobed
    assert [steps for steps, _ in probed(with_probes)] == [0, 10, 20, 30, 40, 50]


def test_a_task_of_a_user_is_probed_with_its_own_batches(tmp_path):
    """Its data cannot be had without augmentation: what is drawn counts as a sample, with an error."""
    folder, _, _ = train(tmp_path, spec(probes=3))
    rows = [row for row in folder.rows() if "full_gradient" in row]
    assert all(row["full_gradient_error"] > 0 for row in rows)


def test_an_adaptive_optimizers_rates_are_beside(tmp_path):
    folder, _, _ = train(tmp_path, spec(probes=3, optimizer="adam(lr=0.01)", precision="float32"))
    rows = list(folder.rows())
    rates = [row for row in rows if row.get("equivalent_rate") is not None]
    assert [row["steps"] for row in rates] == [25]  # before the first update and after the last there is none
    assert all(row["equivalent_rate_low"] < row["equivalent_rate"] < row["equivalent_rate_high"] for row in rates)
    moved = {row["steps"]: row["applied_rate"] for row in rows if row.get("applied_rate") is not None}
    assert list(moved) == [1, 26]  # the update after a probe
    assert moved[26] == pytest.approx(rates[0]["equivalent_rate"], rel=0.2)


def _terminated_after(steps, rows):
    for row in rows:
        if row["steps"] >= steps:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("probes", [5, 6])  # beside the evaluations, and at them
@pytest.mark.parametrize("stop_at", [1, 3, 10, 11, 20, 25, 31, 50])
def test_an_interrupted_run_probes_where_an_uninterrupted_one_does(tmp_path, stop_at, probes):
    what = spec(probes=probes, optimizer="adam(lr=0.01)", precision="float32")
    whole, _, _ = train(tmp_path / "a", what)
    folder = RunFolder.create(tmp_path / "b", what)
    with pytest.raises(Interrupted, match="saved"):
        _terminated_after(stop_at - 1, fit(tiny_task.Tiny(), what, folder))
    run_all(folder, what)
    assert probed(folder) == probed(whole)
    for key in ("steps", "gradient", "equivalent_rate", "applied_rate", "accuracy"):
        assert [row.get(key) for row in folder.rows()] == [row.get(key) for row in whole.rows()]


def test_a_checkpoint_at_an_evaluation_holds_the_probe_that_was_made_there(tmp_path):
    """As a kill right after it finds things."""
    what = spec(probes=6)
    whole, _, _ = train(tmp_path / "a", what)
    folder = RunFolder.create(tmp_path / "b", what)
    rows = fit(tiny_task.Tiny(), what, folder)
    for row in rows:
        if row["steps"] == 10:
            break
    rows.close()  # nothing is saved here: the last checkpoint is the first evaluation's
    run_all(folder, what)
    assert probed(folder) == probed(whole)


def test_a_sample_of_too_few_batches_is_refused_before_training(tmp_path):
    with pytest.raises(
        BudgetError, match=r"read 3 of its 10 batches, and a standard error needs 8; give a share of at least 0.8"
    ):
        train(tmp_path, spec(probes=3, probe_share=0.3))


def test_a_free_probe_does_not_end_after_a_deadline(tmp_path, monkeypatch):
    measured = Probing.figures

    def slow(self, session):
        time.sleep(1.0)
        found = measured(self, session)
        self.seconds += 1.0
        return found

    monkeypatch.setattr(Probing, "figures", slow)
    end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=6)
    _, _, result = train(tmp_path, spec(f"until {end.isoformat()}", probes=3, probes_charged=False, evaluations=2))
    assert result["left_out"] == ["probe"]
    assert result["overrun_seconds"] < 0.5


def test_a_budget_in_time_pays_for_probes_or_not(tmp_path):
    """What is not charged is no activity of the run."""
    folder, _, result = train(tmp_path / "a", spec("1.5s", probes=4))
    assert "probe" in result["activities"]
    assert len(probed(folder)) >= 3
    folder, _, result = train(tmp_path / "b", spec("1.5s", probes=4, probes_charged=False))
    assert "probe" not in result["activities"]
    assert result["overrun_seconds"] < 0.5
    assert len(probed(folder)) >= 3


def test_the_result_has_a_diagnosis(tmp_path):
    _, _, result = train(tmp_path, spec("20ep", "step-d1", probes=3))
    assert result["diagnosis"][0].startswith("The rate reached 0.1 of its base, the full gradient's norm fell to")


def test_a_schedule_refined_from_another_run(tmp_path):
    folder, _, _ = train(tmp_path, spec("10ep", "linear"))
    _, _, result = train(tmp_path, spec("10ep", "refined(linear)"))
    assert result["schedule"].startswith("points(")
    _, _, named = train(tmp_path, spec("10ep", f"refined:{folder.path}"))
    assert named["schedule"] == result["schedule"]
    assert named["metric"] == result["metric"]


def test_a_refined_schedule_wants_the_other_run_first(tmp_path):
    with pytest.raises(ScheduleError, match=r"is refined from the run with schedule 'linear' .* train that one first"):
        train(tmp_path, spec("10ep", "refined(linear)"))
