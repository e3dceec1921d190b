"""fit(): what it yields, what it leaves, and that stopping and going on changes nothing."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import budgeted
import tiny_task
from budgeted import BudgetError, BudgetWarning, NonFiniteLoss, RunFolderError, ScheduleError, TaskError
from budgeted.core.errors import Interrupted
from budgeted.core.record import ROW, RowLog, RunFolder, Spec
from budgeted.core.signals import Signals
from budgeted.train import checkpoint, process
from budgeted.train.loop import fit
from budgeted.train.session import Session

CPU = torch.device("cpu")
TINY = Path(tiny_task.__file__)


def spec(budget="5ep", schedule="linear", **options) -> Spec:
    return Spec("tiny", budget, schedule, **{"deterministic": True, **options})


# The first optimizer of a process imports for a second or more, which no short budget below should pay for.
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)


def run_all(folder, what: Spec | None = None, task=None, **options):
    """Rows and the result of a run to its end."""
    rows, training = [], fit(task or tiny_task.Tiny(), what or spec(), folder, **options)
    while True:
        try:
            rows.append(next(training))
        except StopIteration as end:
            return rows, end.value


def train(tmp_path, what: Spec | None = None, task=None, **options):
    what = what or spec()
    folder = RunFolder.create(tmp_path, what)
    return folder, *run_all(folder, what, task, **options)


def model_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder.path / "last.pt", CPU)["model"]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Rows and results


def test_rows_have_what_is_promised(tmp_path):
    folder, rows, _ = train(tmp_path)
    logged = list(folder.rows())
    assert [row["steps"] for row in logged] == list(range(1, 51))  # a budget of few updates is logged whole
    for row in logged:
        assert set(ROW) <= row.keys()
        k = row["steps"]
        assert row["samples"] == 8 * k
        assert row["progress"] == row["spent"] == k / 50
        assert row["factor"] == 1 - (k - 1) / 50  # of the update that led here
        assert math.isclose(row["lr"], 0.1 * row["factor"]) or k == 50  # after the last, the optimizer holds s(1)
        assert row["loss"] > 0
        assert row["left"] >= 0
    assert [row["steps"] for row in logged if "accuracy" in row] == [10, 20, 30, 40, 50]
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(logged))
    assert rows[-1]["accuracy"] == logged[-1]["accuracy"] > 0.9
    assert rows[-1]["loss"] < rows[0]["loss"] / 2


def test_the_result_has_what_is_promised(tmp_path):
    folder, rows, result = train(tmp_path)
    assert folder.result == {"schema": 1, **result}
    assert (result["task"], result["schedule"], result["budget"], result["seed"]) == ("tiny", "linear", "5ep", 0)
    assert (result["spent"]["steps"], result["spent"]["samples"]) == (50, 400)
    assert 0 < result["spent"]["seconds"] <= result["wall_seconds"]
    assert (result["progress"], result["stopped_by"]) == (1.0, "5ep")
    figures = [row["accuracy"] for row in rows if "accuracy" in row]
    assert result["metric"] == {"name": "accuracy", "best": max(figures), "final": figures[-1]}
    best = next(row for row in rows if row.get("accuracy") == max(figures))
    assert result["best_at"] == {"steps": best["steps"], "progress": best["progress"]}
    assert result["final"].keys() == {"accuracy", "accuracy_raw", "validation_loss", "validation_loss_raw"}
    assert {"evaluation", "refresh", "checkpoint"} <= result["activities"].keys()
    assert (result["evaluations_skipped"], result["within_warmup"]) == (0, False)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "step-d2"])
def test_the_last_update_runs_at_s_of_T_minus_1_over_T(tmp_path, steps, schedule):
    result = train(tmp_path, spec(f"{steps} steps", schedule))[2]
    assert result["last_factor"] == budgeted.schedule(schedule)((steps - 1) / steps)
    assert result["spent"]["steps"] == steps


def test_samples_are_a_budget(tmp_path):
    result = train(tmp_path, spec("100 samples"))[2]
    assert (result["spent"]["steps"], result["stopped_by"]) == (13, "100 samples")


def test_a_share_is_of_the_tasks_full_budget(tmp_path):
    assert train(tmp_path, spec("10%"))[2]["spent"]["steps"] == 20


def test_a_warm_up_is_logged(tmp_path):
    folder, _, result = train(tmp_path, spec("2ep", "warmup(5 steps, linear)"))
    factors = [row["factor"] for row in folder.rows()]
    assert len(factors) == 20
    assert factors[:5] == sorted(factors[:5])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert not result["within_warmup"]


def test_a_logged_loss_is_the_mean_over_all_updates_since_the_row_before(tmp_path, monkeypatch):
    monkeypatch.setattr("budgeted.train.session._LOGGED_ROWS", 5)
    monkeypatch.setattr("budgeted.train.session._LIVE_SECONDS", 0.0)  # somebody watches every update
    losses = []

    class Watched(tiny_task.Tiny):
        def loss(self, model, batch):
            value = super().loss(model, batch)
            losses.append(value.item())
            return value

    folder, rows, _ = train(tmp_path, spec("5ep", evaluations=1), Watched())
    logged = list(folder.rows())
    assert len(rows) > len(logged)
    assert [row["steps"] for row in logged] == [10, 20, 30, 40, 50]
    for k, row in enumerate(logged):
        assert math.isclose(row["loss"], sum(losses[10 * k : 10 * k + 10]) / 10, rel_tol=1e-6)


# Evaluations and the best


def test_the_best_weights_give_the_best_metric(tmp_path):
    task = tiny_task.Tiny()
    folder, _, result = train(tmp_path, task=task)
    model = task.model()
    checkpoint.load_weights(folder.path / "best.safetensors", model)
    figures = task.evaluate(model.eval(), task.data(None, CPU).validation)
    assert figures["accuracy"] == pytest.approx(result["metric"]["best"], abs=1e-6)


class Scripted(tiny_task.Tiny):
    """The metric is read off a list."""

    def __init__(self, figures, maximize=True):
        self.figures, self.maximize = list(figures), maximize

    def evaluate(self, model, data):
        return {"accuracy": self.figures.pop(0)}


@pytest.mark.parametrize(
    ("figures", "maximize", "best", "steps"),
    [
        ([0.1, 0.9, 0.5], True, 0.9, 20),
        ([0.3, 0.1, 0.5], False, 0.1, 20),
        ([0.5, 0.5, 0.5], True, 0.5, 10),
        ([math.nan, 0.2, 0.1], True, 0.2, 20),
        ([0.2, math.nan, math.nan], False, 0.2, 10),
    ],
)
def test_the_best_is_kept(tmp_path, figures, maximize, best, steps):
    what = spec("3ep", refresh=False)
    result = train(tmp_path, what, Scripted(figures, maximize))[2]
    assert result["metric"]["best"] == best
    assert result["best_at"]["steps"] == steps


def test_a_minimised_metric_works(tmp_path):
    folder, rows, result = train(tmp_path, task=tiny_task.Downhill())
    figures = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert result["metric"]["best"] == min(figures)
    assert figures[-1] < figures[0]
    assert next(folder.rows())["loss"] != figures[0]


def test_the_refreshed_or_the_raw_metric_is_final_whichever_is_better(tmp_path):
    # Two evaluations at the first (raw, refreshed) and at the end.
    for figures, final in (([0.1, 0.1, 0.4, 0.6], 0.6), ([0.1, 0.1, 0.6, 0.4], 0.6)):
        result = train(tmp_path, spec("2ep"), Scripted(figures))[2]
        assert result["final"] == {"accuracy": final, "accuracy_raw": figures[2]}


def test_a_refresh_that_was_never_measured_is_not_tried_where_an_evaluation_would_not_fit(tmp_path):
    class SlowJudge(tiny_task.Tiny):
        slow = 0.05

        def evaluate(self, model, data):
            time.sleep(2.0)  # 0.7 is expected of 80 samples, when a quarter of 8 takes 0.05 seconds
            return super().evaluate(model, data)

    given = spec("6s", deterministic=False, precision="float32", evaluations=1)
    _, _, result = train(tmp_path, given, SlowJudge())
    assert result["left_out"] == ["refresh"]
    assert "refresh" not in result["activities"]


def test_a_refresh_whose_passes_would_take_too_long_is_not_tried(tmp_path):
    """The first evaluation takes a thirtieth of what is left; a refresh before it, sixteen passes, a tenth more."""

    class SlowPasses(tiny_task.Tiny):
        passes = 0

        def loss(self, model, batch):
            self.passes += 1
            if self.passes > 4:  # those from which the cost of an evaluation is told at the start are quick
                time.sleep(0.12)
            return super().loss(model, batch)

        def evaluate(self, model, data):
            time.sleep(0.2)
            return super().evaluate(model, data)

    given = spec("7s", deterministic=False, precision="float32")
    _, _, result = train(tmp_path, given, SlowPasses())
    assert result["left_out"] == ["refresh"]
    assert "refresh" not in result["activities"]


def test_slow_evaluations_are_thinned_under_a_time_budget_and_counted(tmp_path):
    class SlowJudge(tiny_task.Tiny):
        def evaluate(self, model, data):
            time.sleep(0.3)
            return super().evaluate(model, data)

    _, rows, result = train(tmp_path, spec("4s", deterministic=False, refresh=False, precision="float32"), SlowJudge())
    assert result["evaluations_skipped"] >= 3
    assert result["last_factor"] < 0.2  # they do not end the run
    assert sum("accuracy" in row for row in rows) + result["evaluations_skipped"] == 10
    assert result["progress"] == 1.0


class Parts(tiny_task.Blobs):
    """Of which a part can be drawn."""

    def subset(self, share, seed):
        part = tiny_task.Blobs()
        part.samples = max(1, round(share * self.samples))
        part.inputs, part.targets = self.inputs[: part.samples], self.targets[: part.samples]
        return part


class DearJudge(tiny_task.Tiny):
    """Evaluating all 80 samples takes 1 s, where 2.7 s are expected from its updates."""

    slow, times = 0.2, ()

    def evaluate(self, model, data):
        time.sleep(data.samples / 80)
        self.times += (data.samples,)
        return super().evaluate(model, data)


class DearInPart(DearJudge):
    def data(self, root, device):
        return tiny_task.Data(tiny_task.Blobs(), Parts())


def test_where_an_evaluation_is_dear_one_of_a_part_tells_what_it_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "_guessed", lambda *_: 0.0)  # how slow the process began is not the question
    given = spec("10s", deterministic=False, refresh=False, precision="float32")
    updates = {}
    for task in (DearJudge(), DearInPart()):
        drawn = []
        _, rows, result = train(
            tmp_path / type(task).__name__, given, task, picture=lambda _, d=drawn, t=task: d.append(len(t.times))
        )
        assert drawn[0] < len(task.times)  # before the last evaluation, at a point that was skipped
        updates[type(task)] = result["spent"]["steps"]
        assert sum("accuracy" in row for row in rows) == 1
        assert result["spent"]["seconds"] <= 10
    parts = [samples for samples in task.times if samples < 80]
    assert 5 <= len(parts) <= 10
    assert set(parts) == {1}  # a tenth of a twentieth of the time
    assert 0 < result["activities"]["evaluation of a part"] < 1
    assert updates[DearInPart] >= updates[DearJudge] + 5  # two of the seconds that nobody would have used


def test_where_few_evaluations_fit_parts_are_timed_until_two_whole_ones_were(tmp_path):
    class TwoFit(DearInPart):
        slow = 0.06  # 200 ms are expected, a twentieth of the time is 400 ms

        def evaluate(self, model, data):
            time.sleep(0.05 * data.samples / 80)
            self.times += (data.samples,)
            return tiny_task.Tiny.evaluate(self, model, data)

    task = TwoFit()
    _, rows, _ = train(tmp_path, spec("8s", deterministic=False, refresh=False, precision="float32"), task)
    whole = [k for k, samples in enumerate(task.times) if samples == 80]
    assert len(whole) == sum("accuracy" in row for row in rows)
    assert task.times[0] < 80  # at the start
    assert len(task.times) > len(whole) + 1  # and at a point
    assert all(samples == 80 for samples in task.times[whole[min(1, len(whole) - 1)] :])


def test_a_resumed_run_times_a_part_again(tmp_path, monkeypatch):
    class Dear(DearInPart):
        slow = 0.1  # 1.3 s are expected: there is time for parts of more than a sample

    what = spec("12s", deterministic=False, refresh=False, precision="float32")
    folder, before, after = RunFolder.create(tmp_path, what), Dear(), Dear()
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        with pytest.raises(Interrupted, match="SIGTERM"):
            run_all(folder, what, before)
    run_all(folder, what, after)
    assert before.times[0] < 80
    assert after.times[0] < 80
    assert after.times[-1] == 80
    run_all(folder, what, over := Dear())
    assert over.times == ()


def test_a_part_of_dear_fixed_costs_tells_of_at_most_twice_what_was_guessed(tmp_path):
    class FixedCosts(DearInPart):
        def evaluate(self, model, data):
            time.sleep(0.3)  # a part of 1 in 80 would tell of 24 s
            return tiny_task.Tiny.evaluate(self, model, data)

    _, _, result = train(tmp_path, spec("20s", deterministic=False, refresh=False, precision="float32"), FixedCosts())
    assert result["spent"]["steps"] > 20
    assert result["last_factor"] < 0.2


def test_what_a_part_lacks_does_not_end_the_run(tmp_path):
    class Whole(DearInPart):
        def evaluate(self, model, data):
            if data.samples < 80:
                raise TaskError("no pixel has a class")
            return super().evaluate(model, data)

    _, _, result = train(tmp_path, spec("8s", deterministic=False, refresh=False, precision="float32"), Whole())
    assert result["progress"] == 1.0


def test_plateau_drops_the_rate(tmp_path):
    what = spec("8ep", "plateau(gamma=0.1, patience=1)", refresh=False)
    folder, _, result = train(tmp_path, what, Scripted([0.5] * 8))
    assert next(folder.rows())["factor"] == 1.0
    assert result["last_factor"] < 0.2


def test_plateau_wants_the_tasks_direction(tmp_path):
    with pytest.raises(ScheduleError, match=r"validation_loss wants a minimum; write plateau\(mode=min\)"):
        train(tmp_path, spec(schedule="plateau(mode=max)"), tiny_task.Downhill())


def test_an_evaluation_without_the_metric_is_a_sentence(tmp_path):
    class Forgetful(tiny_task.Tiny):
        def evaluate(self, model, data):
            return {"f1": 0.5}

    with pytest.raises(TaskError, match=r"evaluate\(\) of task 'tiny' gave f1; its metric is 'accuracy'"):
        train(tmp_path, task=Forgetful())


def test_an_evaluation_may_not_hide_the_training_loss(tmp_path):
    class Ambiguous(tiny_task.Tiny):
        def evaluate(self, model, data):
            return {"loss": 0.5, "accuracy": torch.tensor(0.5)}

    with pytest.raises(TaskError, match="gave 'loss', which every row has already; call it validation_loss"):
        train(tmp_path, task=Ambiguous())


def test_figures_may_be_tensors_in_any_order(tmp_path):
    class Tensors(tiny_task.Tiny):
        def evaluate(self, model, data):
            return {"other": torch.tensor(0.25), "accuracy": torch.tensor(0.5)}

    folder, _, result = train(tmp_path, task=Tensors())
    assert result["metric"]["final"] == 0.5
    row = next(row for row in folder.rows() if "accuracy" in row)
    assert row["other"] == 0.25
    assert next(name for name in row if name not in ROW) == "accuracy"


# Repetition


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_others(tmp_path):
    (first, *_), (again, *_), (other, *_) = (train(tmp_path, spec(seed=seed)) for seed in (1, 1, 2))
    assert same(model_of(first), model_of(again))
    assert not same(model_of(first), model_of(other))
    figures = [
        [{k: v for k, v in row.items() if k not in ("seconds", "left")} for row in f.rows()] for f in (first, again)
    ]
    assert figures[0] == figures[1]


def test_the_global_random_state_before_does_not_matter(tmp_path):
    first = train(tmp_path)[0]
    torch.rand(17)
    assert same(model_of(first), model_of(train(tmp_path)[0]))


def test_how_often_one_evaluates_does_not_change_the_weights(tmp_path):
    runs = [train(tmp_path, spec(evaluations=n))[0] for n in (1, 7)]
    assert same(*map(model_of, runs))


def test_determinism_is_asked_of_torch_and_given_back():
    before = torch.are_deterministic_algorithms_enabled()
    with process.determinism(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert torch.are_deterministic_algorithms_enabled() == before


def test_auto_trains_too(tmp_path):
    threads = torch.get_num_threads()
    folder, _, result = train(tmp_path, spec(deterministic=False))
    torch.set_num_threads(threads)
    assert result["metric"]["final"] > 0.9
    assert folder.read("environment")["forward_backward_seconds"]


# Stopping and going on, in this process


def stop_after(monkeypatch, update: int) -> None:
    """SIGTERM during an update of this process."""
    real = Session.update

    def update_and_stop(session, *given):
        real(session, *given)
        if session.run.ledger.steps == update:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Session, "update", update_and_stop)


@pytest.mark.parametrize("schedule", ["cosine", "plateau(gamma=0.5, patience=0)"])
@pytest.mark.parametrize("update", [1, 7, 20, 49, 50])
def test_a_signal_loses_nothing(tmp_path, monkeypatch, schedule, update):
    """Also where it comes just as an evaluation is due, which drop-on-plateau looks at."""
    whole = train(tmp_path, spec(schedule=schedule))[0]
    folder = RunFolder.create(tmp_path, spec(schedule=schedule))
    with monkeypatch.context() as patched:
        stop_after(patched, update)
        with pytest.raises(
            Interrupted, match=rf"^SIGTERM: stopped after update {update} and saved; go on with: budgeted"
        ):
            run_all(folder, spec(schedule=schedule))
    run_all(folder, spec(schedule=schedule))
    assert same(model_of(whole), model_of(folder))
    steps = [row["steps"] for row in folder.rows()]
    assert sorted(set(steps)) == list(range(1, 51))

    def figures(which):
        return {row["steps"]: row["accuracy"] for row in which.rows() if "accuracy" in row}

    assert figures(whole) == figures(folder)
    assert whole.result["metric"] == folder.result["metric"]


def test_signals_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_interrupts_at_once():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(tmp_path, monkeypatch, update=20, what=None) -> RunFolder:
    folder = RunFolder.create(tmp_path, what or spec())
    with monkeypatch.context() as patched:
        stop_after(patched, update)
        with pytest.raises(Interrupted, match="SIGTERM"):
            run_all(folder, what or spec())
    return folder


@pytest.mark.parametrize(("budget", "total"), [("10ep", 100), ("3ep", 30)])
def test_another_budget_bends_the_decay_from_where_it_is(tmp_path, monkeypatch, budget, total):
    folder = interrupted(tmp_path, monkeypatch)
    _, result = run_all(folder, change=budgeted.Budget.parse(budget))
    rows = {row["steps"]: row for row in folder.rows()}
    assert result["spent"]["steps"] == total
    assert result["budget"] == result["stopped_by"] == budget
    step = 0.6 / (total - 20)  # of what was left of progress
    assert rows[20]["progress"] == 0.4
    assert rows[20]["factor"] == pytest.approx(1 - 19 / 50)
    assert rows[21]["factor"] == pytest.approx(0.6)  # no jump
    assert rows[22]["progress"] == pytest.approx(0.4 + 2 * step)
    assert result["last_factor"] == pytest.approx(step)
    progress = [rows[k]["progress"] for k in sorted(rows)]
    assert progress == sorted(progress)


def test_an_extended_run_that_is_stopped_again_goes_on_under_the_longer_budget(tmp_path, monkeypatch):
    folder = interrupted(tmp_path, monkeypatch)
    with monkeypatch.context() as patched:
        stop_after(patched, 60)
        with pytest.raises(Interrupted, match="stopped after update 60"):
            run_all(folder, change=budgeted.Budget.parse("10ep"))
    assert run_all(folder)[1]["spent"]["steps"] == 100


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_what_it_spent_stays_spent(tmp_path):
    whole, folder = train(tmp_path, spec())[0], RunFolder.create(tmp_path, spec())
    RowLog(folder).append({"steps": 3, "seconds": 7.5})
    result = run_all(folder)[1]
    assert [row["steps"] for row in folder.rows()] == list(range(1, 51))
    assert same(model_of(whole), model_of(folder))
    assert result["spent"]["seconds"] > 7.5


def test_seconds_after_the_last_checkpoint_stay_spent(tmp_path, monkeypatch):
    folder = interrupted(tmp_path, monkeypatch)
    rows = list(folder.rows())
    with open(folder.path / "rows.jsonl", "a") as file:
        file.write(json.dumps(rows[-1] | {"steps": 21, "seconds": rows[-1]["seconds"] + 100}) + "\n")
    result = run_all(folder)[1]
    assert 100 < result["spent"]["seconds"] < 110
    assert [row["steps"] for row in folder.rows()] == list(range(1, 51))


def test_a_resume_with_another_model_is_refused(tmp_path, monkeypatch):
    folder = interrupted(tmp_path, monkeypatch)
    with pytest.raises(RunFolderError, match="is of another model or optimizer than the task now has"):
        run_all(folder, task=tiny_task.Wider())


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_of_a_damaged_checkpoint_the_one_before_is_used_and_that_is_said(tmp_path, monkeypatch):
    whole = train(tmp_path, spec())[0]
    folder = interrupted(tmp_path, monkeypatch, update=25)
    cut_short(folder.path / "last.pt")
    with pytest.warns(BudgetWarning, match=r"last.pt' is damaged .*; the one before it is used, of update 20$"):
        run_all(folder)
    assert same(model_of(whole), model_of(folder))
    assert [row["steps"] for row in folder.rows()] == list(range(1, 51))
    assert folder.result["metric"] == whole.result["metric"]


def test_where_no_checkpoint_is_whole_the_run_is_refused(tmp_path, monkeypatch):
    folder = interrupted(tmp_path, monkeypatch, update=25)
    for name in ("last.pt", "previous.pt"):
        cut_short(folder.path / name)
    with pytest.raises(RunFolderError, match=r"is damaged or not a checkpoint.*there is no whole one before it"):
        run_all(folder)


def test_a_damaged_file_of_the_best_weights_is_said_and_they_are_chosen_anew(tmp_path, monkeypatch):
    folder = interrupted(tmp_path, monkeypatch, update=25)
    cut_short(folder.path / "best.safetensors")
    with pytest.warns(BudgetWarning, match="the best weights are chosen anew"):
        result = run_all(folder)[1]
    assert result["best_at"]["steps"] > 25
    checkpoint.load_weights(folder.path / "best.safetensors", tiny_task.Tiny().model())


# Bad ends


def test_a_loss_that_is_nan_stops_the_run_at_its_update_and_the_checkpoint_is_from_before(tmp_path):
    folder = RunFolder.create(tmp_path, spec())
    with pytest.raises(NonFiniteLoss, match=r"^the loss was nan at update 25;"):
        run_all(folder, task=tiny_task.Explodes())
    saved = checkpoint.load(folder.path / "last.pt", CPU)
    assert saved["run"]["ledger"]["spent"]["steps"] == 20
    assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())
    assert [row["steps"] for row in folder.rows()][-1] == 24
    assert folder.result is None


def test_a_budget_that_set_up_has_eaten_is_refused(tmp_path):
    with pytest.raises(BudgetError, match="nothing is left of it to train in"):
        train(tmp_path, spec("1ms"))


def test_the_picture_is_drawn_from_the_folder_and_timed(tmp_path):
    seen = []
    _, _, result = train(tmp_path, picture=lambda folder: seen.append(len(list(folder.rows()))))
    assert seen == [10, 50]  # once to know what it costs, once at the end
    assert "picture" in result["activities"]


def test_extras_that_would_cost_the_training_are_left_out(tmp_path):
    """A slow picture must not end the training at a tenth of the budget to be drawn again at the end."""
    drawn = []

    def slow(folder):
        drawn.append(folder)
        time.sleep(1)

    what = spec("4s", deterministic=False, precision="float32")
    result = train(tmp_path, what, tiny_task.Tiny(), picture=slow)[2]
    assert (len(drawn), result["left_out"]) == (1, ["picture"])
    assert result["last_factor"] < 0.3  # and not the 0.9 at which the first one was drawn


def test_without_batch_norm_nothing_is_refreshed(tmp_path):
    class Plain(tiny_task.Tiny):
        def model(self):
            return nn.Linear(4, 3)

    result = train(tmp_path, task=Plain())[2]
    assert "refresh" not in result["activities"]
    assert result["final"].keys() == {"accuracy", "validation_loss"}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2, 4])
def test_a_time_budget_ends_inside_it(tmp_path, seconds):
    """The one test with a real clock and a real bound, wide enough for a busy machine."""
    what = replace(spec(f"{seconds}s"), deterministic=False, precision="float32")
    began = time.monotonic()
    _, rows, result = train(tmp_path, what)
    took = time.monotonic() - began
    assert 0.7 * seconds < took < seconds + 0.5
    assert result["progress"] == 1.0
    assert result["stopped_by"] == f"{seconds}s"
    assert result["last_factor"] < 0.1
    assert len(rows) > 10


# Stopping and going on, in real processes


def start(root: Path, *arguments: str, seconds: float = 0.01) -> subprocess.Popen[str]:
    environment = os.environ | {"TINY_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "budgeted.cli.main", "train", *arguments, "--json"]
    return subprocess.Popen(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


NEW = (f"{TINY}:Tiny", "--budget", "20ep", "--schedule", "cosine", "--deterministic", "--no-curve", "--out")


def await_rows(process: subprocess.Popen[str], root: Path, count: int) -> Path:
    """The run's folder once it has logged so many rows."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        for path in root.glob("*/rows.jsonl"):
            if path.read_bytes().count(b"\n") >= count:
                return path.parent
        time.sleep(0.01)
    raise AssertionError(f"no {count} rows were written: {process.communicate(timeout=10)}")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of a run that nobody interrupted."""
    root = tmp_path_factory.mktemp("whole")
    code, _, err = finish(start(root, *NEW, str(root), seconds=0))
    assert (code, err) == (0, "")
    return model_of(RunFolder(next(root.glob("*/last.pt")).parent))


@pytest.mark.slow
def test_a_run_killed_again_and_again_has_the_weights_of_one_never_interrupted(tmp_path, whole):
    arguments: tuple[str, ...] = (*NEW, str(tmp_path))
    for rows in (15, 63, 127):
        process = start(tmp_path, *arguments)
        folder = await_rows(process, tmp_path, rows)
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        arguments = ("--resume", str(folder))
    code, _, err = finish(start(tmp_path, *arguments, seconds=0))
    assert (code, err) == (0, "")
    assert same(whole, model_of(RunFolder(folder)))
    assert [row["steps"] for row in RunFolder(folder).rows()] == list(range(1, 201))


@pytest.mark.slow
def test_a_run_stopped_by_signals_says_how_to_go_on_and_loses_nothing(tmp_path, whole):
    arguments: tuple[str, ...] = (*NEW, str(tmp_path))
    reached = 0
    for number, rows in ((signal.SIGINT, 5), (signal.SIGTERM, 90)):
        process = start(tmp_path, *arguments)
        folder = await_rows(process, tmp_path, rows)
        process.send_signal(number)
        code, out, err = finish(process)
        assert (code, out) == (130, "")
        steps = checkpoint.load(folder / "last.pt", CPU)["run"]["ledger"]["spent"]["steps"]
        assert err == (
            f"{number.name}: stopped after update {steps:g} and saved; go on with: budgeted train --resume {folder}\n"
        )
        assert steps > reached
        reached, arguments = steps, ("--resume", str(folder))
    code, _, err = finish(start(tmp_path, *arguments, seconds=0))
    assert (code, err) == (0, "")
    assert same(whole, model_of(RunFolder(folder)))
    code, out, err = finish(start(tmp_path, *arguments))
    assert (code, out) == (2, "")
    assert err == f"error: '{folder}' is finished: its budget is spent; train anew with a larger one\n"
