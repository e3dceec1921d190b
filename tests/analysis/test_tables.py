"""Medians, spreads, places, and the paper's figures beside ours."""

from __future__ import annotations

import json
import math

import pytest

from budgeted.analysis import results, tables
from budgeted.core.errors import StudyError


def table(manifest):
    (found,) = tables.tables_of(manifest, results.runs_of(manifest))
    return found


def test_the_median_and_the_range(shelf):
    cell = table(shelf.study({("a", "1%"): [0.3, 0.1, 0.2]})).cell("a", "1%")
    assert (cell.centre, cell.spread, cell.values, cell.complete) == (0.2, (0.1, 0.3), (0.3, 0.1, 0.2), True)


def test_the_first_three_places_at_each_budget(shelf):
    cells = {(row, "1%"): [value] for row, value in zip("abcde", (0.5, 0.9, 0.7, 0.9, 0.1), strict=True)}
    found = table(shelf.study(cells))
    assert [found.cell(row, "1%").place for row in "abcde"] == [None, 1, 3, 1, None]


def test_less_may_be_better(shelf):
    found = table(shelf.study({("a", "1%"): [0.5], ("b", "1%"): [0.9]}, maximize=False))
    assert [found.cell(row, "1%").place for row in "ab"] == [1, 2]


def test_a_cell_that_is_not_whole_has_no_place(shelf):
    found = table(
        shelf.study(
            {
                ("a", "1%"): [0.9, None],
                ("b", "1%"): [0.5, 0.6],
                ("c", "1%"): ["it broke", 0.95],
                ("d", "1%"): [0.1, 0.2],
            }
        )
    )
    assert [found.cell(row, "1%").place for row in "abcd"] == [None, 1, None, 2]
    assert (found.cell("a", "1%").values, found.cell("a", "1%").wanted) == ((0.9,), 2)
    assert found.cell("c", "1%").failed == 1
    assert found.partial


def test_a_row_need_not_stand_in_every_column(shelf):
    found = table(shelf.study({("a", "1%"): [0.5], ("b", "1%"): [0.6], ("b", "100%"): [0.9]}))
    assert found.columns == ("1%", "100%")
    assert found.cell("a", "100%").wanted == 0
    assert math.isnan(found.cell("a", "100%").centre)
    assert not found.partial


def test_where_the_best_checkpoint_is_averaged_over_budgets_and_seeds(shelf):
    values = {("const", "10%"): [(0.5,), (0.5,)], ("const", "100%"): [(0.5,), (0.5,)]}
    manifest = shelf.study({key: [0.5, 0.5] for key in values}, value="best_progress")
    runs = results.runs_of(manifest)
    runs["best_progress"] = runs["value"] = [0.2, 0.4, 0.6, 0.8]
    (found,) = tables.tables_of(manifest, runs)
    assert found.columns == ("10%", "100%", tables.ALL)
    cell = found.cell("const", tables.ALL)
    assert cell.centre == pytest.approx(0.5)
    assert cell.spread == pytest.approx((0.5 - 0.2582, 0.5 + 0.2582), abs=1e-3)


def test_the_papers_figures_stand_beside_its_own_task_and_no_other(shelf, tmp_path):
    cells = {("linear", "1%"): [0.6], ("exp.97", "5%"): [0.8], ("mine", "1%"): [0.1]}
    found = table(shelf.study(cells, paper="2", task="cifar10"))
    assert (found.cell("linear", "1%").paper, found.cell("exp.97", "5%").paper) == (0.6654, 0.8222)
    assert found.cell("mine", "1%").paper is None
    assert found.has_paper
    shelf.out = tmp_path / "other"
    assert not table(shelf.study(cells, paper="2", task="digits")).has_paper


def test_table_9_means_the_period_that_ends_at_70(shelf):
    found = table(shelf.study({("linear", "35%"): [0.6]}, paper="9", task="cifar10"))
    assert found.cell("linear", "35%").paper == 0.9506


def test_every_number_of_the_paper_is_there():
    found = tables.reported()
    assert len(found) == 255
    assert all(0 <= float(row["value"]) <= 1 for row in found if "AP" not in row["metric"])
    by_table = [row["table"] for row in found]
    assert (by_table.count("2"), by_table.count("10"), by_table.count("11")) == (66, 18, 11)


PAPERS = {
    "imagenet": ("accuracy", "best", ()),
    "coco": ("box_ap", "final", ("mask_ap",)),
    "cityscapes": ("miou", "best", ()),
    "kinetics": ("accuracy", "final", ()),
}


@pytest.mark.parametrize(("name", "numbers"), [("table3", 60), ("table4", 12), ("fig3", 10)])
def test_the_vision_benchmarks_meet_the_papers_figures(shelf, name, numbers):
    """Box and mask AP of COCO have a table each; every figure that the paper prints stands beside one cell of ours."""
    from budgeted.study.read import read_study

    study, known = read_study(name), []
    for task, (metric, judged, also) in PAPERS.items():
        shelf.out = shelf.out / task
        places = {(row.label, budget): [0.5] for row in study.rows for budget in study.budgets}
        facts = {"metric": metric, "judged_by": judged, "also": also}
        found = tables.tables_of(
            manifest := shelf.study(places, paper=study.paper, task=task, value="task", facts=facts),
            results.runs_of(manifest),
        )
        assert [one.metric for one in found] == [metric, *also]
        known += [cell.paper for one in found for cell in one.cells.values() if cell.paper is not None]
    of_task = [
        row for row in tables.reported() if row["table"] in study.paper.split(",") and "CIFAR" not in row["task"]
    ]
    if name == "fig3":  # the full budget, cityscapes by its own schedule
        of_task = [
            r for r in of_task if r["budget"] == "100%" and not ("Cityscapes" in r["task"] and r["schedule"] == "step")
        ]
        of_task = list({(r["task"], r["schedule"]): r for r in of_task}.values())
    elif name == "table4":
        assert {row["task"] for row in of_task} == {"Cityscapes / PSPNet R50"}
    assert sorted(known) == sorted(float(row["value"]) for row in of_task)
    assert len(known) == numbers


@pytest.mark.parametrize(
    "task", ["imagenet(batch=32)", "imagenette64", "imagenet(crop=64, folder=x)", "coco(size=200)"]
)
def test_a_recipe_that_was_changed_has_no_figure_of_the_papers(shelf, task):
    facts = {"metric": "box_ap" if "coco" in task else "accuracy"}
    assert not table(shelf.study({("linear", "1%"): [0.3]}, paper="3", task=task, facts=facts)).has_paper


def test_a_folder_or_a_backbone_changes_no_recipe(shelf):
    given = {"paper": "3", "task": "imagenet(folder=other, decode=scaled)"}
    assert table(shelf.study({("linear", "1%"): [0.3]}, **given)).cell("linear", "1%").paper == 0.3080


def test_a_task_says_whether_its_best_or_its_final_model_counts(shelf, tmp_path):
    cells = {("linear", "1%"): [(0.8, 0.6)]}
    for judged, value in (("best", 0.8), ("final", 0.6)):
        shelf.out = tmp_path / judged
        found = table(shelf.study(cells, value="task", facts={"judged_by": judged}))
        assert (found.cell("linear", "1%").centre, found.value) == (value, judged)


def test_another_metric_of_the_final_model_has_a_table_of_its_own(shelf):
    facts = {"metric": "box_ap", "judged_by": "final", "also": ["mask_ap"]}
    manifest = shelf.study({("a", "1%"): [0.5], ("b", "1%"): [0.4]}, value="task", facts=facts)
    for number, run in enumerate(sorted(shelf.out.glob("*/result.json"))):
        content = json.loads(run.read_text())
        run.write_text(json.dumps(content | {"final": {"box_ap": 0.5, "mask_ap": 0.3 + number / 10}}))
    boxes, masks = tables.tables_of(manifest, results.runs_of(manifest))
    assert (boxes.name, masks.name) == ("t", "t, mask_ap")
    assert sorted(cell.centre for cell in masks.cells.values()) == pytest.approx([0.3, 0.4])
    assert (boxes.cell("a", "1%").place, {cell.place for cell in masks.cells.values()}) == (1, {1, 2})


@pytest.mark.parametrize("name", ["table1", "table2", "table9", "table10", "table11", "amsgrad"])
def test_the_built_in_studies_meet_the_papers_figures(shelf, name):
    """Every cell of the paper's table has one of ours beside it, but for what it prints of nothing (N/A)."""
    from budgeted.study.plan import Facts
    from budgeted.study.read import read_study

    study = read_study(name)
    cells = study.cells({"cifar10": Facts("200ep", 352, "accuracy", True)})
    places = {(c.row, c.budget): [0.5] for c in cells}
    found = table(shelf.study(places, paper=study.paper, task="cifar10"))
    known = [cell.paper for cell in found.cells.values() if cell.paper is not None]
    wanted = [float(row["value"]) for row in tables.reported() if row["table"] == study.paper]
    assert sorted(known) == sorted(wanted)


def test_the_frontier_never_falls_with_the_budget(shelf):
    cells = {
        ("a", "1%"): [0.5],
        ("a", "10%"): [0.4],
        ("a", "100%"): [0.8],
        ("b", "1%"): [0.2],
        ("b", "10%"): [0.45],
        ("b", "100%"): [0.7],
    }
    found = table(shelf.study(cells))
    assert tables.frontier(found) == [("1%", 0.5), ("10%", 0.5), ("100%", 0.8)]
    assert tables.normalised(found) == 0.8


def test_budgets_stand_in_their_order_whatever_the_study_says(shelf):
    found = table(shelf.study({("a", "100%"): [0.9], ("a", "10%"): [0.5], ("b", "100%"): [0.8], ("b", "10%"): [0.6]}))
    assert found.columns == ("10%", "100%")
    assert tables.frontier(found) == [("10%", 0.6), ("100%", 0.9)]


def test_loose_runs_that_differ_in_anything_are_rows_of_their_own(shelf):
    from budgeted.core.record import Spec

    shelf.put(Spec("t", "2ep", "linear", 0), 0.5)
    shelf.put(Spec("t", "2ep", "linear", 0, precision="bf16", refresh=False), 0.6)
    found = table(results.loose(shelf.out))
    assert set(found.rows) == {"linear", "linear, precision bf16, refresh False"}


def test_a_run_whose_budget_was_changed_is_none_of_a_studys(shelf):
    manifest = shelf.study({("a", "1%"): [0.5]})
    cell = manifest.content["cells"][0]
    (shelf.out / cell["run"] / "budget.json").write_text('{"schema": 1, "budget": "9ep"}')
    assert list(results.runs_of(manifest)["status"]) == ["missing"]


def test_without_the_full_budget_there_is_nothing_to_divide_by(shelf):
    assert tables.normalised(table(shelf.study({("a", "1%"): [0.5]}))) is None


def test_loose_runs_make_a_table_of_their_own(shelf):
    from budgeted.core.record import Spec

    for schedule in ("linear", "const"):
        for budget in ("10ep", "2ep"):
            for seed in (0, 1):
                shelf.put(Spec("t", budget, schedule, seed), 0.5)
    shelf.put(Spec("t", "2ep", "linear", 0, lr=0.3, optimizer="adamw"), 0.9)
    manifest = results.loose(shelf.out)
    found = table(manifest)
    assert found.columns == ("2ep", "10ep")
    assert set(found.rows) == {"linear", "const", "linear, adamw, lr 0.3"}
    assert found.cell("linear", "2ep").values == (0.5, 0.5)
    assert found.maximize


def test_no_runs_are_said(tmp_path):
    with pytest.raises(StudyError, match="there are no finished runs in"):
        results.loose(tmp_path)


def test_what_was_shared_is_counted_once_a_run(shelf):
    manifest = shelf.study({("a", "1%"): [0.5], ("b", "1%"): [0.6]})
    runs = results.runs_of(manifest)
    runs["shared"] = [40, 0]
    assert results.saved(runs) == (200, 40)


def test_a_curve_keeps_its_evaluations(shelf):
    from pathlib import Path

    from budgeted.core.record import Spec

    folder = shelf.put(Spec("t", "1ep", "linear"), 0.8, steps=1000)
    found = results.curve(Path(folder.path), "accuracy", points=10)
    assert 10 <= len(found) <= 35
    assert list(found.dropna(subset=["accuracy"])["steps"]) == list(range(50, 1001, 50))
