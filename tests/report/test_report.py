"""What is drawn and printed."""

from __future__ import annotations

import struct
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from budgeted import RunFolderError, schedule
from budgeted.core.errors import BudgetWarning
from budgeted.core.record import RowLog, RunFolder, Spec
from budgeted.report import curve, live, style
from budgeted.report.curve import draw_curve
from budgeted.report.schedules import draw_schedules
from budgeted.report.summary import print_summary

pytest.importorskip("matplotlib")


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are drawn, to look into them."""
    figures, real = [], style.Figure

    def make(*args, **options):
        figures.append(real(*args, **options))
        return figures[-1]

    monkeypatch.setattr(style, "Figure", make)
    return figures


def log(folder: RunFolder, *rows: dict) -> None:
    written = RowLog(folder)
    for one in rows:
        written.append(one)


def row(k: int, total: int = 10, **figures) -> dict:
    p = k / total
    return {
        "steps": k, "samples": 8 * k, "seconds": 0.1 * k, "progress": p, "factor": 1 - (k - 1) / total, "lr": 0.1,
        "loss": 2.0 / k, "spent": p, "left": 1.0, **figures,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path, Spec("digits", "10 steps", "linear"))


# Curves


def test_a_curve_shows_losses_metric_and_rate(folder, drawn):
    log(folder, *(row(k, **({"accuracy": k / 20, "other": 3.0} if k % 5 == 0 else {})) for k in range(1, 11)))
    draw_curve(folder)
    width, height = png_size(folder.path / "curve.png")
    assert width > 900
    assert height > 600
    upper, lower, right = drawn[0].axes
    assert upper.get_lines()[0].get_ydata().tolist() == [2.0 / k for k in range(1, 11)]
    assert right.get_lines()[0].get_xydata().tolist() == [[0.5, 0.25], [1.0, 0.5]]
    assert right.get_ylabel().startswith("accuracy")
    # The rate of update k was in force from k/T to (k+1)/T.
    rate = lower.get_lines()[0]
    assert rate.get_drawstyle() == "steps-pre"
    assert rate.get_xdata().tolist() == [k / 10 for k in range(11)]
    assert rate.get_ydata().tolist() == pytest.approx([1.0, *(1 - k / 10 for k in range(10))])


def test_a_warm_up_during_which_progress_waits_is_spread_out(folder, drawn):
    log(folder, *(row(k) | {"progress": max(0, k - 5) / 5} for k in range(1, 11)))
    draw_curve(folder)
    lower = drawn[0].axes[1]
    assert lower.get_xlabel() == "share of the budget that is spent"
    assert len(set(lower.get_lines()[0].get_xdata())) == 11


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(1)],
        [row(1) | {"loss": None}],
        [row(1) | {"loss": 0.0}, row(2) | {"loss": -3.0}],
        [row(1, accuracy=None), row(2, accuracy=0.5)],
        [row(1, accuracy=None)],
    ],
)
def test_few_or_odd_rows_are_drawn_too(folder, rows):
    log(folder, *rows)
    draw_curve(folder)
    assert (folder.path / "curve.png").stat().st_size > 1000


def test_the_metric_is_found_by_what_is_no_row_of_every_run():
    assert curve._metric([row(1), row(2, bits_per_byte=2.0)]) == "bits_per_byte"
    assert curve._metric([row(1)]) is None


# Schedules


def test_schedules_are_drawn_as_png_and_svg(tmp_path):
    chosen = [(name, schedule(name)) for name in ("linear", "cosine", "step-d2")]
    draw_schedules(chosen, tmp_path / "s.png")
    assert png_size(tmp_path / "s.png")[0] > 900
    draw_schedules(chosen, tmp_path / "s.svg")
    assert ET.parse(tmp_path / "s.svg").getroot().tag.endswith("svg")


def test_no_two_of_42_lines_look_alike(tmp_path, drawn):
    draw_schedules([(f"line {k}", schedule("linear")) for k in range(42)], tmp_path / "s.png")
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in drawn[0].axes[0].get_lines()}
    assert len(looks) == 42


def test_lines_hold_the_factors(tmp_path, drawn):
    draw_schedules([("poly", schedule("poly"))], tmp_path / "s.png")
    x, y = drawn[0].axes[0].get_lines()[0].get_data()
    assert (x[0], x[-1]) == (0, 1)
    assert list(y) == [schedule("poly")(p) for p in x]


@pytest.mark.parametrize("name", ["s.txt", "missing/s.png", "s"])
def test_a_figure_that_cannot_be_written_is_a_sentence(tmp_path, name):
    (tmp_path / "s").mkdir()
    with pytest.raises(RunFolderError, match="cannot write the figure '"):
        draw_schedules([("linear", schedule("linear"))], tmp_path / name)


def test_drawing_leaves_matplotlibs_settings_alone(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_schedules([("linear", schedule("linear"))], tmp_path / "s.png")
    assert dict(mpl.rcParams) == before


# The summary and the live bar


def result(**changes) -> dict:
    return {
        "schedule": "linear", "budget": "10ep", "stopped_by": "10ep", "progress": 1.0, "last_factor": 0.1,
        "spent": {"steps": 1234, "samples": 56789.0, "seconds": 3725.2}, "metric": {"name": "accuracy", "best": 0.9, "final": 0.8},
        "best_at": {"steps": 600, "progress": 0.5}, "activities": {"evaluation": 61.0, "checkpoint": 0.25},
        "evaluations_skipped": 0, "left_out": [], "overrun_seconds": 0.0, "within_warmup": False, "run_dir": "runs/x", **changes,
    }  # fmt: skip


def test_the_summary_says_how_many_samples_were_skipped(capsys):
    print_summary(result(skipped_samples=3))
    assert "3 samples that cannot be read" in capsys.readouterr().out


def test_the_summary_says_what_happened(capsys):
    print_summary(result())
    out = capsys.readouterr().out
    for part in (
        "0.8000, best 0.9000 at p = 0.50",
        "10ep, ended by 10ep",
        "1,234 updates, 56,789 samples, 1h2min5s",
        "evaluation 1min1s, checkpoint 0.25s",
        "linear; the last update ran at 0.1 of the base rate",
        "runs/x",
    ):
        assert part in out
    assert "left out" not in out
    assert "skipped" not in out
    assert "over it" not in out
    assert "warm-up" not in out


def test_what_was_left_out_is_said(capsys):
    print_summary(result(evaluations_skipped=4, left_out=["picture"], overrun_seconds=1.5, within_warmup=True))
    out = capsys.readouterr().out
    assert "4 evaluations, picture, to spare the budget" in out
    assert "10ep, ended by 10ep, 1.5s over it" in out
    assert "the budget ended within the warm-up" in out


@pytest.mark.parametrize("path", ["/a/" + "long/" * 60 + "x", "runs/[red]x[/red]", "runs/tab le ä"])
def test_the_run_folder_is_printed_whole(capsys, path):
    print_summary(result(run_dir=path))
    assert f"  {path}\n" in capsys.readouterr().out


def test_quiet_where_nobody_watches(capsys):
    def rows():
        yield row(1)
        return {"metric": 1}

    assert live.live(rows(), Spec("t", "1ep", "linear"), "accuracy", shown=False) == {"metric": 1}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [False, True])
def test_what_must_be_said_is_said_whether_or_not_somebody_watches(capsys, shown):
    """In a sentence, without the line of code; what is no concern of the budget's stays an ordinary warning."""

    def rows():
        yield row(1)
        warnings.warn("the checkpoint '[red]last.pt' is damaged", BudgetWarning, stacklevel=2)
        warnings.warn("something old", UserWarning, stacklevel=2)
        return {"metric": 1}

    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *_, **__: others.append((str(message), category))
        others: list = []
        mine = warnings.showwarning
        assert live.live(rows(), Spec("t", "1ep", "linear"), "accuracy", shown=shown) == {"metric": 1}
        assert warnings.showwarning is mine
    assert warnings.showwarning is before
    assert others == [("something old", UserWarning)]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("note: the checkpoint '[red]last.pt' is damaged\n") == 1
    assert ".py" not in err


def test_the_figures_of_the_bar():
    wide, narrow = (live._figures(row(2) | {"left": 93.4}, narrow=narrow) for narrow in (False, True))
    assert wide == "1min33s left  p 0.200  rate x0.900  loss 1.000"
    assert narrow == "1min33s left  loss 1.000"
    assert live._figures(row(1) | {"left": None, "loss": None}, narrow=True) == ""
