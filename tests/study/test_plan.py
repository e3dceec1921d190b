"""A grid becomes runs, each named by what defines it; what cannot become one is refused with a sentence."""

from __future__ import annotations

import itertools

import pytest

from budgeted.core.errors import StudyError
from budgeted.core.spec import schedule as read_schedule
from budgeted.study.plan import Facts, Row, Study, resolved

FACTS = {"t": Facts("200ep", 352, "accuracy", True), "w": Facts("90000 steps", 100, "ap", True, "500 steps")}


def study(*rows: Row, **given) -> Study:
    return Study("s", rows or (Row("linear"),), **{"budgets": ("1%", "100%"), "seeds": (0,), "tasks": ("t",), **given})


def test_every_row_at_every_budget_with_every_seed():
    wanted = study(Row("linear"), Row("cosine"), seeds=(0, 7), tasks=("t", "w"))
    cells = wanted.cells(FACTS)
    places = [(c.task, c.row, c.budget, c.seed) for c in cells]
    assert places == list(itertools.product(("t", "w"), ("linear", "cosine"), ("1%", "100%"), (0, 7)))
    assert len({c.spec.name for c in cells}) == len(cells)


def test_shares_are_taken_so_that_two_studies_mean_the_same_run():
    share, whole = study(budgets=("15%",)).cells(FACTS), study(budgets=("30ep",)).cells(FACTS)
    assert share[0].spec == whole[0].spec
    assert (share[0].budget, whole[0].budget) == ("15%", "30ep")
    assert str(resolved("5% or 45min", "20ep or 2h")) == "1ep or 6min or 45min"


def test_early_stopped_is_over_the_full_budget():
    (cell,) = study(Row("exp.99 over full"), budgets=("5%",)).cells(FACTS)
    assert (cell.spec.schedule, cell.spec.budget) == ("exp.99 over 200ep", "10ep")


def test_a_tasks_own_warmup_stands_before_every_schedule():
    specs = [
        c.spec.schedule
        for c in study(Row("linear"), Row("warmup(30s, cosine)"), budgets=("1%",), tasks=("w",)).cells(FACTS)
    ]
    assert specs == ["warmup(500 steps, linear)", "warmup(30s, cosine)"]


def test_rows_may_mean_what_each_task_calls_its_own():
    own = {
        "coco": Facts(
            "90000 steps", 100, "ap", True, "500 steps", off_the_shelf="step(2/3, 8/9)", step_decay="step(2/3, 8/9)"
        ),
        "city": Facts("400ep", 100, "miou", True, off_the_shelf="poly"),
    }
    rows = Row("off-the-shelf"), Row("step-decay", label="step"), Row("linear")
    cells = study(*rows, budgets=("1%",), tasks=("coco", "city")).cells(own)
    assert [(c.row, c.spec.schedule) for c in cells] == [
        ("off-the-shelf", "warmup(500 steps, step(2/3, 8/9))"),
        ("step", "warmup(500 steps, step(2/3, 8/9))"),
        ("linear", "warmup(500 steps, linear)"),
        ("off-the-shelf", "poly"),
        ("step", "step-d2"),
        ("linear", "linear"),
    ]


def test_what_a_row_replaces_is_in_the_spec():
    row = Row("linear", model="mlp(width=8)", optimizer="adamw", lr=0.01, average="ema", subset="budget")
    (cell,) = study(row, budgets=("5%",)).cells(FACTS)
    spec = cell.spec
    assert (spec.model, spec.optimizer, spec.lr, spec.average, spec.subset) == (
        "mlp(width=8)",
        "adamw",
        0.01,
        "ema",
        0.05,
    )
    assert row.label == "linear, mlp(width=8), adamw, lr 0.01, ema, subset budget"


def test_a_row_may_stand_in_some_columns_only():
    cells = study(Row("linear"), Row("exp.99", budgets=("1%",))).cells(FACTS)
    assert [(c.row, c.budget) for c in cells] == [("linear", "1%"), ("linear", "100%"), ("exp.99", "1%")]


def test_narrowing():
    wide = study(Row("linear"), Row("exp.99", budgets=("1%",)), Row("const"))
    narrow = wide.narrowed(tasks=["w"], budgets=["100%", "3ep"], seeds=[4], rows=["linear", "exp.99"], precision="bf16")
    assert (narrow.tasks, narrow.budgets, narrow.seeds, narrow.precision) == (("w",), ("100%", "3ep"), (4,), "bf16")
    assert [(r.label, r.budgets) for r in narrow.rows] == [("linear", None), ("exp.99", ("3ep",))]
    with pytest.raises(StudyError, match="has no row 'linaer'; did you mean 'linear'"):
        wide.narrowed(rows=["linaer"])
    with pytest.raises(StudyError, match="is empty: it has no rows"):
        wide.narrowed(rows=["exp.99"], budgets=["100%"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"budgets": ()}, "is empty: it has no budgets"),
        ({"seeds": ()}, "is empty: it has no seeds"),
        ({"tasks": ()}, "is empty: it has no tasks"),
        ({"budgets": ("1%", "5%", "1%")}, "has '1%' twice among its budgets"),
        ({"seeds": (0, 0)}, "has '0' twice among its seeds"),
        ({"seeds": (-1,)}, "a seed is a whole number from 0"),
        ({"budgets": ("1 parsec",)}, "study 's', budgets: budget '1 parsec'"),
        ({"value": "bset"}, "value 'bset' is unknown; did you mean 'best'"),
        ({"figures": ("curvs",)}, "figure 'curvs' is unknown; did you mean 'curves'"),
    ],
)
def test_an_impossible_grid_is_refused(given, why):
    with pytest.raises(StudyError, match=why):
        study(**given)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((Row("linaer"),), "row 'linaer': schedule 'linaer': 'linaer' is unknown; did you mean 'linear'"),
        ((Row("linear"), Row("linear")), "has 'linear' twice among its rows"),
        ((Row("linear", budgets=("7%",)),), "'7%' is none of the budgets, which are 1%, 100%"),
    ],
)
def test_an_impossible_row_is_refused(rows, why):
    with pytest.raises(StudyError, match=why):
        study(*rows)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"subset": 1.5}, "a share above 0 and up to 1"),
        ({"subset": "half"}, "or 'budget'"),
        ({"lr": -1.0}, "lr is a positive number"),
    ],
)
def test_an_impossible_recipe_is_refused(given, why):
    with pytest.raises(StudyError, match=why):
        Row("linear", **given)


def test_a_budget_below_one_update_is_refused():
    with pytest.raises(StudyError, match=r"row 'linear', budget '0.001%': .* the least is one"):
        study(budgets=("0.001%",)).cells(FACTS)


def test_a_subset_as_large_as_the_budget_needs_a_share():
    with pytest.raises(StudyError, match="needs budgets in shares of the full one"):
        study(Row("linear", subset="budget"), budgets=("3ep",)).cells(FACTS)


# Ranks, probes, refined rows


def test_ranks_are_of_a_schedule_that_there_is_and_want_two_budgets():
    rows = (Row("linear", model="a"), Row("const", model="a"))
    with pytest.raises(
        StudyError, match="ranks is the schedule 'cosine', which no row has; it is one of linear, const"
    ):
        Study("s", rows, ("1%", "100%"), ranks="cosine")
    with pytest.raises(StudyError, match="give two budgets or more"):
        Study("s", rows, ("100%",), ranks="linear")


def test_at_the_last_budget_only_the_ranks_are_made():
    study = Study("s", (Row("linear"), Row("const")), ("1ep", "2ep"), (0,), ("t",), ranks="linear")
    cells = study.cells({"t": Facts("2ep", 10, "accuracy", True)})
    assert [(c.row, c.budget) for c in cells] == [("linear", "1ep"), ("linear", "2ep"), ("const", "1ep")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"probes": 1}, "probes is how often the full gradient is measured, from 2, and is 1"),
        ({"probes": 3, "probe_share": 0.0}, "a share of the training data above 0 and up to 1"),
        ({"probe_share": 0.5}, "there are no probes; give probes too"),
    ],
)
def test_probes_that_cannot_be(options, sentence):
    with pytest.raises(StudyError, match=sentence):
        Study("s", (Row("linear"),), ("1ep",), **options)


def test_a_refined_row_is_over_the_same_budget():
    study = Study("s", (Row("refined(step-d2 over full)", "r"),), ("1ep",), (0,), ("t",))
    (cell,) = study.cells({"t": Facts("2ep", 10, "accuracy", True)})
    assert cell.spec.schedule == f"refined({read_schedule('step-d2')} over 2ep)"
    with pytest.raises(StudyError, match="has a warm-up of 5 steps, which a refined schedule replaces"):
        study.cells({"t": Facts("2ep", 10, "accuracy", True, "5 steps")})


def test_a_row_is_added_once():
    study = Study("s", (Row("linear"),), ("1ep",))
    more = study.with_row(Row("refined(linear)", "refined"))
    assert [row.label for row in more.rows] == ["linear", "refined"]
    assert more.with_row(Row("refined(linear)", "refined")) == more
