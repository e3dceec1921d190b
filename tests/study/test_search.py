"""A search: who goes on is what the runs say, whatever is trained together, parked, killed and gone on with."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_task
from budgeted.core.errors import Interrupted, StudyError
from budgeted.core.record import RunFolder
from budgeted.study import work
from budgeted.study.conduct import train_specs
from budgeted.study.engine import InProcess
from budgeted.study.plan import Facts
from budgeted.study.processes import Processes
from budgeted.study.search import Climb, Ladder, compared, figures_of, find_ladder, foreseen, write
from budgeted.study.space import STRATEGIES, Configuration, Search
from budgeted.study.work import Options

TINY = f"{tiny_task.__file__}:Tiny"
FACTS = Facts("20ep", 10, "accuracy", True)
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def search(*rates: float, task=TINY, **more) -> Search:
    configurations = tuple(Configuration(lr=rate) for rate in rates or RATES)
    return Search("s", task, configurations, precision="float32", **more)


def climb(wanted: Search, strategy: str, out: Path, engine=None, **how) -> Climb:
    engine, options = engine or InProcess(), Options(str(out), **how)
    found = Climb(find_ladder(wanted, engine, options), strategy, engine, options)
    while not found.over:
        for _ in found.conduct():
            pass
    return found


def outcome(found: Climb) -> list:
    return [(rung.budget, rung.figures, rung.promoted) for rung in found.rungs]


def told(out: Path, spec) -> tuple:
    """All that a run came to."""
    folder = RunFolder.finished(out, spec)
    assert folder is not None, spec
    rows = [(r["steps"], r["loss"], r["lr"], r.get("accuracy")) for r in folder.rows()]
    return folder.result["metric"], folder.result["best_at"], folder.result["spent"]["steps"], rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What each strategy comes to in one process, and where its runs are."""
    found = {}
    for strategy in STRATEGIES:
        out = tmp_path_factory.mktemp(strategy)
        found[strategy] = out, climb(search(), strategy, out)
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_rung_is_to_the_bit_what_its_runs_are_alone(tmp_path, undisturbed, strategy):
    out, found = undisturbed[strategy]
    for spec in found._trained:
        assert work.train([spec], Options(str(tmp_path))).finished == [spec.name]
        assert told(tmp_path, spec) == told(out, spec)
    assert [len(rung.figures) for rung in found.rungs] == [9, 3, 1]
    assert [rung.updates for rung in found.rungs] == [22, 67, 200]


@pytest.mark.parametrize(("strategy", "made"), [("fitted", 22 + 67 + 200), ("trunk", 200 + 13 + 4), ("truncated", 200)])
def test_what_is_common_to_the_rungs_is_trained_once(undisturbed, strategy, made):
    """Of the one that came to the last rung, all runs have ended: what they made is what is said to be spent."""
    out, found = undisturbed[strategy]
    best = [one for one in found.ladder.search.configurations if one.label in found.rungs[-1].promoted]
    specs = [cell.spec for rung in range(3) for cell in found.ladder.cells(strategy, rung, best)]
    results = [RunFolder.finished(out, spec).result for spec in specs]
    assert sum(result["spent"]["steps"] - result["shared_updates"] for result in results) == made
    assert found.ladder.cost(specs) == made


@pytest.mark.parametrize(("strategy", "at"), [("trunk", 17), ("truncated", 22)])
def test_those_of_rungs_above_stay_parked(undisturbed, strategy, at):
    """They have trained as far as they are like the rung's own, and not an update further."""
    out, found = undisturbed[strategy]
    dropped = [one for one in found.ladder.search.configurations if one.label not in found.rungs[0].promoted]
    for cell in (*found.ladder.cells(strategy, 1, dropped), *found.ladder.cells(strategy, 2, dropped)):
        folder = RunFolder.unfinished(out, cell.spec)
        assert (folder.path / "last.pt").exists()
        assert max(row["steps"] for row in folder.rows()) <= at + 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_side_by_side_and_killed_it_is_the_same(tmp_path, undisturbed, strategy):
    kills = 0
    with Processes(2) as engine:
        options = Options(str(tmp_path), save_every=0.02)
        found = Climb(find_ladder(search(), engine, options), strategy, engine, options)
        while not found.over:
            for _ in found.conduct():
                busy = [w for w in engine._workers if w is not None and w.ticket]
                if busy and kills < 2 and list(tmp_path.glob("*/last.pt")):
                    os.kill(busy[0].process.pid, signal.SIGKILL)
                    kills += 1
    assert outcome(found) == outcome(undisturbed[strategy][1])


def stop(found: Climb, after: int) -> None:
    for standing in found.conduct():
        if standing.finished == after:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path, undisturbed, strategy):
    options, engine = Options(str(tmp_path)), InProcess()
    found = Climb(find_ladder(search(), engine, options), strategy, engine, options)
    with pytest.raises(Interrupted, match=r"SIGTERM: \d of 9 runs are finished"):
        stop(found, after=4)
    assert outcome(climb(search(), strategy, tmp_path)) == outcome(undisturbed[strategy][1])


def test_nothing_is_trained_twice(tmp_path, undisturbed, monkeypatch):
    out, before = undisturbed["trunk"]
    monkeypatch.setattr(work, "_train", lambda *_: pytest.fail("trained again"))
    assert outcome(climb(search(), "trunk", out)) == outcome(before)


def test_a_configuration_that_fails_ranks_last_and_is_said(tmp_path):
    found = climb(search(1e30, 0.1, 0.03), "fitted", tmp_path)
    assert found.rungs[0].figures["lr 1e30"] is None
    assert "lr 1e30" not in found.rungs[0].promoted
    assert ["the loss was" in reason for reason in found.rungs[0].failed.values()] == [True]


def test_one_seed_that_fails_counts_as_the_worst_of_them(tmp_path):
    wanted = search(0.1, 0.03, seeds=(0, 1, 2))
    ladder = Ladder.fitting(wanted, FACTS)
    cells = ladder.cells("fitted", 0, wanted.configurations[:1])
    for cell, final in zip(cells, (None, 0.5, 0.7), strict=True):
        RunFolder.create(tmp_path, cell.spec).write("result", {"metric": {"final": final, "best": 0.9}})
    assert figures_of(cells, tmp_path, "final", maximize=True) == {"lr 0.1": 0.5}
    assert figures_of(cells, tmp_path, "final", maximize=False) == {"lr 0.1": 0.7}
    assert figures_of(cells, tmp_path, "best", maximize=True) == {"lr 0.1": 0.9}


def test_a_search_of_which_nothing_is_left_is_said(tmp_path):
    with pytest.raises(StudyError, match=r"all 3 configurations failed at '67 steps': the loss was nan at update 25"):
        climb(search(task=f"{tiny_task.__file__}:Explodes"), "fitted", tmp_path)


def test_less_is_better_where_the_task_says_so(tmp_path):
    found = climb(search(0.0001, 0.1, task=f"{tiny_task.__file__}:Downhill"), "fitted", tmp_path)
    assert found.rungs[-1].promoted == ("lr 0.1",)


def test_a_comparison_has_every_figure_and_the_truth(tmp_path):
    wanted = search(0.001, 0.01, 0.1, truth_seeds=(7,))
    options, engine = Options(str(tmp_path)), InProcess()
    ladder = find_ladder(wanted, engine, options)
    for _ in train_specs(ladder.everything(), {TINY: ladder.facts}, engine, options):
        pass
    climbs = [climb(wanted, strategy, tmp_path) for strategy in STRATEGIES]
    content = write(ladder, climbs, compared(ladder, options), tmp_path)
    assert (tmp_path / "searches" / "s" / "search.json").exists()
    assert list(content["comparison"]["figures"]) == list(STRATEGIES)
    assert all(len(figures) == 3 for rungs in content["comparison"]["figures"].values() for figures in rungs)
    assert None not in content["comparison"]["truth"].values()
    assert content["climbs"][2]["spent"] == 200 + 22 + 22  # of three one goes on, twice
    alone = climb(wanted, "trunk", tmp_path / "alone")  # what was parked there ran to its end here, to the same figures
    assert outcome(alone) == outcome(climbs[1])


def test_rungs_are_an_etath_of_each_other():
    assert Ladder.fitting(search(), FACTS).updates == (22, 67, 200)
    assert Ladder.fitting(search(eta=2, rungs=4), FACTS).updates == (25, 50, 100, 200)
    assert Ladder.fitting(search(smallest="2ep"), FACTS).updates == (22, 67, 200)
    assert Ladder.fitting(search(smallest="10%", eta=2), FACTS).updates == (25, 50, 100, 200)
    assert Ladder.fitting(search(smallest="22 steps"), FACTS).updates == (22, 67, 200)
    assert Ladder.fitting(search(budget="50%"), FACTS).budgets == ("11 steps", "33 steps", "10ep")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"rungs": 6},
            r"of 6 rungs up to 200 updates the first is 0.82 of an update, with eta 3; ask for 5 rungs at most",
        ),
        ({"budget": "10min"}, "the budget '10min' is not counted in updates"),
        ({"budget": "10ep or 50 steps"}, "the budget '10ep or 50 steps' is not counted in updates"),
        (
            {"smallest": "10ep"},
            "smallest '10ep' is 100 updates, .*: one rung, and nothing to halve; give less than 67 steps",
        ),
    ],
)
def test_rungs_that_cannot_be_are_said(more, why):
    with pytest.raises(StudyError, match=why):
        Ladder.fitting(search(**more), FACTS)


def test_a_long_schedule_cannot_be_cut_off_after_a_warm_up_in_updates():
    ladder = Ladder.fitting(search(), replace(FACTS, warmup="5 steps"))
    assert ladder.cells("trunk", 0, search().configurations)[0].spec.schedule == "warmup(5 steps, wsd)"
    with pytest.raises(StudyError, match="has a warm-up of 5 steps"):
        ladder.cells("truncated", 0, search().configurations)


def test_a_model_that_there_is_not_is_said_before_anything_is_trained(tmp_path):
    wanted = Search("s", "digits", (Configuration("mpl"), Configuration("mlp")))
    with pytest.raises(StudyError, match="model 'mpl' is unknown; did you mean 'mlp'"):
        find_ladder(wanted, InProcess(), Options(str(tmp_path)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_it_will_take_is_foreseen(undisturbed, strategy):
    found = undisturbed[strategy][1]
    assert found.ladder.cost(foreseen(found.ladder, strategy)) == found.content()["spent"]
