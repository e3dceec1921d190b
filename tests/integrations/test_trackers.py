"""Trackers through their own libraries: what was logged is read back by them."""

from __future__ import annotations

import time

import pytest

import tiny_task
from budgeted import BudgetedError
from budgeted.core.record import RunFolder, Spec
from budgeted.integrations import trackers
from budgeted.study import work
from budgeted.study.work import Options, train

SPEC = Spec(f"{tiny_task.__file__}:Tiny", "3ep", "linear", deterministic=True, precision="float32")


def trained(tmp_path, name: str, specs=(SPEC,)) -> list[RunFolder]:
    outcome = train(specs, Options(str(tmp_path / "runs"), trackers=(name,)))
    assert sorted(outcome.finished) == sorted(spec.name for spec in specs), outcome
    return [RunFolder.open(tmp_path / "runs" / spec.name) for spec in specs]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = trained(tmp_path, "tensorboard")
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    rows = list(folder.rows())
    assert [e.step for e in events.Scalars("accuracy")] == [10, 20, 30]
    assert [e.value for e in events.Scalars("accuracy")] == pytest.approx(
        [r["accuracy"] for r in rows if "accuracy" in r]
    )
    logged = {e.step: e.value for e in events.Scalars("lr")}
    assert all(logged[r["steps"]] == pytest.approx(r["lr"]) for r in rows)


def test_runs_that_train_together_are_logged_each_for_itself(tmp_path):
    pytest.importorskip("tensorboard")
    from dataclasses import replace

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    specs = [replace(SPEC, schedule="const", budget=budget) for budget in ("4ep", "2ep")]
    for folder, last in zip(trained(tmp_path, "tensorboard", specs), (40, 20), strict=True):
        events = EventAccumulator(str(folder.path / "tensorboard"))
        events.Reload()
        assert events.Scalars("loss")[-1].step == last


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    (folder,) = trained(tmp_path, "mlflow")
    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == SPEC.task]
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.run_name == folder.path.name
    assert logged.data.params["schedule"] == "linear"
    assert logged.data.metrics["best_accuracy"] == pytest.approx(folder.result["metric"]["best"])
    assert [m.step for m in client.get_metric_history(logged.info.run_id, "accuracy")] == [10, 20, 30]


def test_mlflow_logs_runs_that_train_together_side_by_side(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    from dataclasses import replace

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    specs = [replace(SPEC, schedule="const", budget=budget) for budget in ("4ep", "2ep")]
    trained(tmp_path, "mlflow", specs)
    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == SPEC.task]
    logged = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert logged.keys() == {spec.name for spec in specs}
    for spec, last in zip(specs, (40, 20), strict=True):
        assert client.get_metric_history(logged[spec.name].info.run_id, "loss")[-1].step == last
        assert logged[spec.name].info.status == "FINISHED"


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (folder,) = trained(tmp_path, "wandb")
    (log,) = (folder.path / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while b"best_accuracy" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.2)  # its service writes on after the run has let go of it
    content = log.read_bytes()
    assert folder.path.name.encode() in content
    assert b"best_accuracy" in content


def test_what_is_missing_is_said_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(BudgetedError, match="--wandb needs wandb, which is not installed: pip install wandb"):
        trackers.require(["wandb"])
    with pytest.raises(BudgetedError, match="tracker 'comet' is unknown; they are tensorboard, mlflow, wandb"):
        trackers.require(["comet"])


def test_figures_are_the_numbers_of_a_row():
    row = {"steps": 3, "loss": 0.5, "accuracy": None, "left": 2.0, "lr": 1, "note": "x"}
    assert trackers.figures(row) == {"loss": 0.5, "lr": 1.0}


def test_a_workers_outcome_says_what_a_tracker_broke(tmp_path, monkeypatch):
    def broken(names, folder, spec):
        raise BudgetedError("the tracker is away")

    monkeypatch.setattr(trackers, "track", broken)
    outcome = work.train([SPEC], Options(str(tmp_path), trackers=("wandb",)))
    assert outcome.failed == {SPEC.name: "the tracker is away"}
