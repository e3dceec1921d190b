"""A study is conducted: each run once, failures kept, deaths survived; the table is the same to the bit whatever happens."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

import tiny_task
from budgeted.core.control import hold, holder
from budgeted.core.errors import Interrupted, StudyError
from budgeted.core.manifest import Manifest
from budgeted.core.record import RunFolder, Spec
from budgeted.study import work
from budgeted.study.conduct import conduct, forecast
from budgeted.study.engine import InProcess
from budgeted.study.plan import Facts, Row, Study
from budgeted.study.processes import Processes
from budgeted.study.work import Options

TINY = f"{tiny_task.__file__}:Tiny"


def study(*schedules: str, task=TINY, budgets=("10%", "50%", "100%"), seeds=(0, 1), **more) -> Study:
    rows = tuple(Row(text) for text in schedules or ("const", "step-d1", "linear"))
    return Study("s", rows, budgets, seeds, (task,), precision="float32", **more)


def exhaust(standings):
    last = None
    while True:
        try:
            last = next(standings)
        except StopIteration as end:
            return last, end.value


def results(out: Path, manifest: Manifest) -> dict[str, tuple]:
    """All that a table is made of, by run."""
    found = {}
    for cell in manifest.content["cells"]:
        folder = RunFolder.open(out / cell["run"])
        result = folder.result
        assert result is not None, cell
        rows = [(r["steps"], r["loss"], r["lr"], r.get("accuracy")) for r in folder.rows()]
        found[cell["run"]] = result["metric"], result["best_at"], result["spent"]["steps"], rows
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The study's results, each run trained alone in this process."""
    out = tmp_path_factory.mktemp("reference")
    _, manifest = exhaust(conduct(study(), InProcess(), Options(str(out)), share=False))
    return results(out, manifest)


@pytest.mark.parametrize("share", [False, True])
def test_side_by_side_is_as_one_after_another(tmp_path, reference, share):
    with Processes(2) as engine:
        standing, manifest = exhaust(conduct(study(), engine, Options(str(tmp_path)), share=share))
    assert (standing.finished, standing.total, standing.failed, standing.updates_left) == (18, 18, {}, 0)
    assert results(tmp_path, manifest) == reference
    shared = sum(RunFolder.open(tmp_path / run).result["shared_updates"] for run in reference)
    # Of each seed: the two shorter constant ones, and half of the two longer stepped ones; the third is not worth it.
    assert shared == (2 * (20 + 100 + 50 + 100) if share else 0)


def test_nothing_is_trained_twice(tmp_path, monkeypatch):
    exhaust(conduct(study("const", seeds=(0,)), InProcess(), Options(str(tmp_path))))
    trained = []
    real = work._train
    monkeypatch.setattr(work, "_train", lambda specs, *more: trained.extend(specs) or real(specs, *more))
    standing, _ = exhaust(conduct(study("const", "linear", seeds=(0,)), InProcess(), Options(str(tmp_path))))
    assert {spec.schedule for spec in trained} == {"linear"}
    assert (standing.cached, standing.finished) == (3, 6)
    other = Study("other", (Row("linear"),), ("2ep",), (0,), (TINY,), precision="float32")  # 10 % of 20 epochs
    standing, _ = exhaust(conduct(other, InProcess(), Options(str(tmp_path))))
    assert (standing.cached, standing.total) == (1, 1)


def test_data_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_kept", {})
    reads = []
    real = tiny_task.Tiny.data
    monkeypatch.setattr(tiny_task.Tiny, "data", lambda self, *given: reads.append(1) or real(self, *given))
    exhaust(conduct(study("linear", task="tiny_task:Tiny"), InProcess(), Options(str(tmp_path))))
    assert len(reads) == 1


def test_data_that_draws_from_the_runs_seed_is_read_anew(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(work, "_kept", {})
    reads = []
    real = tiny_task.Tiny.data
    monkeypatch.setattr(
        tiny_task.Tiny, "data", lambda self, *given: (torch.rand(1), reads.append(1)) and real(self, *given)
    )
    exhaust(conduct(study("linear", task="tiny_task:Tiny"), InProcess(), Options(str(tmp_path))))
    assert len(reads) == 1 + 6


@pytest.mark.parametrize("share", [False, True])
def test_a_run_that_fails_is_kept_with_its_error_and_the_others_end(tmp_path, share):
    """The loss is NaN at update 25: of the shorter run it never comes."""
    explodes = f"{tiny_task.__file__}:Explodes"
    options = Options(str(tmp_path))
    standing, _ = exhaust(conduct(study("const", task=explodes, seeds=(0,)), InProcess(), options, share=share))
    assert (standing.finished, len(standing.failed)) == (1, 2)
    for name, reason in standing.failed.items():
        assert reason == "the loss was nan at update 25; try a lower base rate, or a warm-up"
        assert RunFolder.open(tmp_path / name).error == reason
    again, _ = exhaust(conduct(study("const", task=explodes, seeds=(0,)), InProcess(), options, share=share))
    assert (again.cached, again.failed) == (1, standing.failed)  # left so


def test_what_failed_is_tried_again_on_demand(tmp_path, monkeypatch):
    options, wanted = Options(str(tmp_path)), study("const", task="tiny_task:Tiny", seeds=(0,), budgets=("50%",))
    with monkeypatch.context() as patch:
        patch.setattr(tiny_task.Tiny, "model", lambda *_: 1 / 0)
        patch.setattr("budgeted.study.conduct.describe", lambda *_: Facts("20ep", 10, "accuracy", True))
        standing, _ = exhaust(conduct(wanted, InProcess(), options))
    assert list(standing.failed.values()) == ["ZeroDivisionError: division by zero"]
    standing, _ = exhaust(conduct(wanted, InProcess(), options, retry=True))
    assert (standing.finished, standing.failed) == (1, {})


def test_a_worker_is_killed_again_and_again(tmp_path, reference):
    """Whatever it was at, its runs go on from their checkpoints, and the table is the same to the bit."""
    kills, killed = 0, 0.0
    with Processes(2) as engine:
        standings = conduct(study(), engine, Options(str(tmp_path), save_every=0.02))
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                standing = next(standings)
            except StopIteration as end:
                manifest = end.value
                break
            busy = [w for w in engine._workers if w is not None and w.ticket]
            written = max((path.stat().st_mtime for path in tmp_path.glob("*/last.pt")), default=0.0)
            if busy and kills < 4 and written > killed:  # one that comes to nothing three times over would be given up
                os.kill(busy[kills % len(busy)].process.pid, signal.SIGKILL)
                kills, killed = kills + 1, time.time()
    assert kills >= 2
    assert standing.failed == {}
    assert results(tmp_path, manifest) == reference


@pytest.mark.slow
def test_on_a_ray_cluster_a_worker_is_killed_in_the_middle(tmp_path, reference):
    ray = pytest.importorskip("ray")
    from budgeted.study.ray_engine import RayEngine

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        killed = []
        with RayEngine("auto") as engine:
            assert engine.slots == 2
            standings = conduct(study(), engine, Options(str(tmp_path), save_every=0.02))
            while True:
                try:
                    next(standings)
                except StopIteration as end:
                    manifest = end.value
                    break
                holders = [holder(path.parent) for path in tmp_path.glob("*/lock")] if not killed else []
                if pids := [h["pid"] for h in holders if h]:
                    os.kill(pids[0], signal.SIGKILL)
                    killed.append(pids[0])
    finally:
        ray.shutdown()
    assert killed
    assert results(tmp_path, manifest) == reference


def test_a_run_whose_worker_always_dies_is_given_up_and_the_others_end(tmp_path):
    wanted = study("const", "linear", task=f"{__file__}:Deadly", seeds=(0, 1), budgets=("10%",))
    with Processes(2) as engine:
        standing, _ = exhaust(conduct(wanted, engine, Options(str(tmp_path))))
    assert standing.finished == 2
    assert len(standing.failed) == 2
    assert all("its worker died 3 times (SIGKILL)" in reason for reason in standing.failed.values())
    assert all("-" in name for name in standing.failed)


class Deadly(tiny_task.Tiny):
    """Kills its process where the rate decays, as linear does."""

    def optimizer(self, model):
        self.made = super().optimizer(model)
        return self.made

    def loss(self, model, batch):
        if self.made.param_groups[0]["lr"] < 0.1 and model.training:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


def stop(standings, after):
    for standing in standings:
        if standing.finished >= after:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path, reference):
    slow = Options(str(tmp_path), save_every=60)
    for stop_after in (1, 6):
        with Processes(2) as engine, pytest.raises(Interrupted, match=r"SIGTERM: \d+ of 18 runs are finished"):
            stop(conduct(study(), engine, slow), stop_after)
    with Processes(2) as engine:
        standing, manifest = exhaust(conduct(study(), engine, slow))
    assert standing.cached >= 6
    assert results(tmp_path, manifest) == reference


def test_what_another_process_trains_is_waited_for(tmp_path):
    """It is not trained twice, and not taken for a failure."""
    wanted = study("linear", seeds=(0,), budgets=("10%",))
    engine = InProcess()
    options = Options(str(tmp_path))
    standings = conduct(wanted, engine, options)
    next(standings)
    cell = Manifest.all_below(tmp_path)[0].content["cells"][0]
    folder = RunFolder.create(tmp_path, Spec(**cell["spec"]))
    with hold(folder.path):
        seen = [next(standings) for _ in range(4)]
        assert seen[-1].elsewhere == 1
    standing, _ = exhaust(standings)
    assert (standing.finished, standing.elsewhere, standing.failed) == (1, 0, {})


def test_a_folder_that_cannot_be_made_fails_the_run_and_not_the_study(tmp_path):
    (tmp_path / "file").write_text("")
    spec = Spec(TINY, "1ep", "linear", precision="float32")
    assert list(work.train([spec], Options(str(tmp_path / "file" / "runs"))).failed) == [spec.name]


def test_a_precision_that_there_is_not_is_said(tmp_path):
    with pytest.raises(StudyError, match="bogus"):
        exhaust(conduct(study(task="digits").narrowed(precision="bogus"), InProcess(), Options(str(tmp_path))))


def test_what_would_be_trained_is_foreseen(tmp_path):
    wanted, options = study("const", "linear"), Options(str(tmp_path))
    there, missing, updates, saved = forecast(wanted, InProcess(), options, share=True)
    assert (there, missing, updates, saved) == (0, 12, 2 * (200 + 320), 2 * 120)
    exhaust(conduct(wanted, InProcess(), options))
    assert forecast(wanted, InProcess(), options, share=True) == (12, 0, 0, 0)


@pytest.mark.parametrize(
    ("task", "rows", "why"),
    [
        ("digts", (Row("linear"),), "task 'digts' is unknown; the tasks are"),
        ("digits", (Row("linear", model="mpl"),), "model 'mpl' is unknown; did you mean 'mlp'"),
        (
            "digits",
            (Row("linear", optimizer="amsgrd"),),
            "optimizer 'amsgrd': 'amsgrd' is unknown; did you mean 'amsgrad'",
        ),
        (TINY, (Row("linear", model="mlp"),), "has one model alone"),
        (TINY, (Row("linear", subset=0.5),), r"has no subset\(share, seed\)"),
        ("digits", (Row("linear", average="emma"),), "emma"),
    ],
)
def test_what_is_not_to_be_had_is_said_before_anything_is_trained(tmp_path, task, rows, why):
    wanted = Study("s", rows, ("1ep",), (0,), (task,))
    with pytest.raises(StudyError, match=why):
        exhaust(conduct(wanted, InProcess(), Options(str(tmp_path))))
    assert not list(tmp_path.iterdir())


def test_a_refined_row_waits_for_the_run_that_it_is_refined_from(tmp_path):
    """Even where that run is in no row of the study: it is trained first, and is not in the table."""
    study = Study("s", (Row("refined(linear)", "refined"),), ("10ep",), (0,), (TINY,), precision="float32")
    standings = list(conduct(study, InProcess(), Options(str(tmp_path))))
    assert (standings[-1].finished, standings[-1].total) == (2, 2)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")]
    assert sorted(r["schedule"].partition("(")[0] for r in results) == ["linear", "points"]
