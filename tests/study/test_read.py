"""Studies as text: those of the package, and one's own."""

from __future__ import annotations

import pytest

from budgeted.core.errors import StudyError
from budgeted.study.plan import Facts
from budgeted.study.read import built_in, read_study, study_from

CIFAR10 = Facts("200ep", 352, "accuracy", True)
ROWS = {"schedules": ["linear", "cosine"], "budgets": ["1ep"], "task": "digits"}


def test_those_of_the_package_in_the_papers_order():
    assert list(built_in()) == [
        "amsgrad", "fig1", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "lm", "quick", "table1", "table2", "table3", "table4",
        "table5", "table6", "table9", "table10", "table11", "table6-small",
    ]  # fmt: skip


@pytest.mark.parametrize("name", built_in())
def test_each_of_them_comes_to_runs(name):
    study = read_study(name)
    facts = dict.fromkeys(study.tasks, CIFAR10)
    assert study.title
    assert study.seeds == ((0,) if name == "table6-small" else (0, 1, 2))
    assert study.cells(facts)
    assert study.narrowed(tasks=["digits"]).cells({"digits": Facts("30ep", 23, "accuracy", True)})


def cells(name):
    study = read_study(name)
    return {(c.row, c.budget): c.spec for c in study.cells(dict.fromkeys(study.tasks, CIFAR10)) if c.seed == 0}


def test_table_2_is_the_papers():
    assert len(cells("table2")) == 66
    assert {row for row, _ in cells("table2")} == {
        "const", "exp.95", "exp.97", "exp.99", "step-d1", "step-d2", "step-d3", "htd", "cosine", "poly", "linear",
    }  # fmt: skip
    assert not cells("table2")["linear", "1%"].refresh  # the paper's protocol


def test_table_1_holds_early_stopping_against_conversion():
    found = cells("table1")
    assert found["exp .99 (early-stopped)", "5%"].schedule == "exp.99 over 200ep"
    assert found["exp .99 (BAC)", "5%"].schedule == "exp.99"
    assert ("step-d1 (BAC)", "100%") not in found


def test_table_9_ends_with_the_periods_of_sgdr():
    """30, 70 and 150 epochs: the paper prints 50 for 70."""
    budgets = {spec.budget for spec in cells("table9").values()}
    assert budgets == {"30ep", "70ep", "150ep"}


def test_table_11_draws_a_subset_as_large_as_the_budget():
    assert cells("table11")["step-d2 on a random subset", "25%"].subset == 0.25
    assert cells("table11")["step-d2 on the full set (BAC)", "25%"].subset is None


def test_axes_multiply():
    study = study_from({**ROWS, "optimizers": ["sgd(lr=0.1)", "adamw"], "lrs": [1, 0.1]}, "s")
    assert [(r.schedule, r.optimizer, r.lr) for r in study.rows][:3] == [
        ("linear", "sgd(lr=0.1)", 1.0),
        ("linear", "sgd(lr=0.1)", 0.1),
        ("linear", "adamw", 1.0),
    ]
    assert len(study.rows) == 8


def test_ones_own_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'task = "digits"\nbudgets = ["1ep"]\nseeds = [3, 5]\n[[rows]]\nlabel = "a"\nschedule = "linear"\nlr = 1\n'
    )
    study = read_study(str(path))
    assert (study.name, study.tasks, study.seeds, study.rows[0].lr) == ("mine", ("digits",), (3, 5), 1.0)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({**ROWS, "budget": ["1ep"]}, "'budget' is unknown; did you mean 'budgets'"),
        ({**ROWS, "budgets": "1ep"}, "budgets is a list, and is '1ep'"),
        ({**ROWS, "title": ["x"]}, "title is one value, and is the list"),
        ({**ROWS, "seeds": "three"}, "seeds has 'three', which is no int"),
        ({**ROWS, "seeds": True}, "seeds has True, which is no int"),
        ({**ROWS, "seeds": 0}, "is empty: it has no seeds"),
        ({**ROWS, "tasks": ["digits"]}, "has both task and tasks"),
        ({**ROWS, "rows": [{"label": "x"}]}, "row 1 has no schedule"),
        ({**ROWS, "rows": [{"schedule": "linear", "lable": "x"}]}, "row 1: 'lable' is unknown; did you mean 'label'"),
        ({"task": "digits", "budgets": ["1ep"]}, "is empty: it has no rows"),
        ({"task": "digits", "budgets": ["1ep"], "lrs": [0.1]}, "has lrs and no schedules"),
        ({"budgets": ["1ep"], "schedules": ["linear"]}, "is empty: it has no tasks"),
    ],
)
def test_what_is_wrong_is_said(found, why):
    with pytest.raises(StudyError, match=why):
        study_from(found, "s")


def test_what_is_no_study_is_said(tmp_path):
    with pytest.raises(StudyError, match="study 'tabel2' is unknown; did you mean 'table2'"):
        read_study("tabel2")
    with pytest.raises(StudyError, match=r"cannot read study '.*missing\.toml'"):
        read_study(str(tmp_path / "missing.toml"))
    (tmp_path / "bad.toml").write_text("budgets = [")
    with pytest.raises(StudyError, match="is not TOML"):
        read_study(str(tmp_path / "bad.toml"))


def test_a_range_stands_for_a_row_each():
    found = study_from(
        {"task": "t", "budgets": ["1ep"], "schedules": ["linear"], "models": ["net({8..10})", "mlp"]}, "s"
    )
    assert [row.model for row in found.rows] == ["net(8)", "net(9)", "net(10)", "mlp"]
