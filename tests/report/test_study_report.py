"""A study's report: in the terminal, in files, and its page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tempfile
import time
from pathlib import Path

import matplotlib.image
import pytest
from rich.console import Console

from budgeted.analysis import results, tables
from budgeted.core.manifest import Manifest
from budgeted.report import tables as form
from budgeted.report.study import FORMATS, Report

CELLS = {
    ("linear", "1%"): [0.65, 0.61, 0.66], ("linear", "5%"): [0.89, 0.88, 0.90], ("linear", "100%"): [0.95, 0.96, 0.95],
    ("step-d2", "1%"): [0.55, 0.51, 0.56], ("step-d2", "5%"): [0.83, 0.82, 0.84], ("step-d2", "100%"): [0.953, 0.951, 0.955],
    ("exp & co_1", "1%"): [0.48, 0.47, 0.49], ("exp & co_1", "5%"): [0.75, 0.74, 0.76],
}  # fmt: skip
PARTIAL = {
    **CELLS,
    ("const", "1%"): [0.5, None, None],
    ("const", "5%"): ["the loss was nan", 0.8, 0.8],
    ("const", "100%"): [None] * 3,
}


@pytest.fixture
def report(shelf) -> Report:
    return Report(shelf.study(CELLS, paper="2", task="cifar10"))


@pytest.fixture
def partial(shelf) -> Report:
    return Report(shelf.study(PARTIAL))


def printed(report: Report, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    report.print(console)
    return console.file.getvalue()


def test_in_a_wide_terminal(report):
    text = printed(report, 120)
    assert re.search(r"linear +0\.6500¹ +0\.8900¹ +0\.9500² ", text)
    assert "(0.6100-0.6600)" in text
    assert "[0.6654]" in text
    assert "Median of 3 runs (lowest - highest); ¹ ² ³ are the first three places" in text
    assert "PARTIAL" not in text
    assert "linear - step-d2: +0." in text


def test_in_a_narrow_terminal_spreads_are_left_out(report):
    text = printed(report, 50)
    assert "0.6500¹" in text
    assert "(0.6100" not in text
    assert max(map(len, text.splitlines())) <= 50


def test_what_is_missing_is_said(partial):
    text = printed(partial, 120)
    assert "PARTIAL: runs are missing" in text
    assert "0.5000 [1 of 3]" in text
    assert "0.8000 [2 of 3, 1 failed]" in text
    assert "[0 of 3]" in text
    assert re.search(r"failed: t-\w+ \(const, 5%, seed 0\): the loss was nan", text)


def test_markdown(report):
    text = report.markdown()
    assert "| cifar10 | 1% | 5% | 100% |" in text
    assert "| linear | **0.6500¹** (0.6100-0.6600) [0.6654] | **0.8900¹** (0.8800-0.9000) [0.8920] |" in text
    assert "| exp & co_1 | 0.4800³ (0.4700-0.4900) | 0.7500³ (0.7400-0.7600) | \N{EN DASH} |" in text


def test_latex(report):
    text = form.latex(report.tables[0])
    assert r"linear & \textbf{0.6500} {\scriptsize 0.6100--0.6600} {\scriptsize [0.6654]} &" in text
    assert r"exp \& co\_1 & \textit{0.4800}" in text
    assert r"& 1\% & 5\% & 100\% \\" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert {line.count(" & ") for line in text.splitlines() if line.endswith(r"\\")} == {3}
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(report, tmp_path):
    import subprocess

    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
        + form.latex(report.tables[0])
        + "\\end{document}"
    )
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_csv_reads_back(partial):
    rows = list(csv.DictReader(io.StringIO(form.table_csv(partial.tables))))
    linear = next(row for row in rows if (row["row"], row["budget"]) == ("linear", "1%"))
    assert (float(linear["median"]), float(linear["lowest"]), linear["runs"], linear["place"]) == (0.65, 0.61, "3", "1")
    const = next(row for row in rows if (row["row"], row["budget"]) == ("const", "5%"))
    assert (const["runs"], const["wanted"], const["failed"], const["place"]) == ("2", "3", "1", "")
    runs = list(csv.DictReader(io.StringIO(form.runs_csv(partial.runs))))
    assert len(runs) == 33
    assert {run["status"] for run in runs} == {"finished", "failed", "missing"}


def test_all_the_files(report, tmp_path):
    out = tmp_path / "report"
    names = {path.name for path in report.write(out)}
    assert (
        names
        == {path.name for path in out.iterdir()}
        == {
            "index.html",
            "report.md",
            "tables.tex",
            "table.csv",
            "runs.csv",
            *(f"{name}.{ending}" for name in ("budgets", "curves", "schedules", "ranks") for ending in ("png", "svg")),
        }
        - {"ranks.png", "ranks.svg"}
    )  # fmt: skip two rows have all budgets
    for path in out.glob("*.png"):
        picture = matplotlib.image.imread(path)
        assert picture.shape[1] > 600
        assert picture[..., :3].std() > 0.03  # something is drawn
    for path in out.glob("*.svg"):
        assert path.read_text().lstrip().startswith("<?xml")


def test_only_what_was_asked_for(report, tmp_path):
    assert [path.name for path in report.write(tmp_path / "r", ["tex"])] == ["tables.tex"]
    assert set(FORMATS) == {"md", "csv", "tex", "png", "svg", "html"}


def test_a_report_over_unfinished_runs_alone(shelf, tmp_path):
    report = Report(shelf.study({("linear", "1%"): [None, None], ("const", "1%"): [None, None]}))
    assert "[0 of 2]" in printed(report, 100)
    assert {path.name for path in report.write(tmp_path / "r")} >= {"index.html", "report.md"}


def test_a_report_where_one_run_is_all(shelf, tmp_path):
    report = Report(shelf.study({("linear", "1%"): [0.5]}))
    assert "One seed" in printed(report, 100)
    report.write(tmp_path / "r")


def test_a_loss_is_no_accuracy(shelf):
    report = Report(shelf.study({("linear", "1%"): [12.345], ("const", "1%"): [99.0]}, maximize=False))
    text = printed(report, 100)
    assert "12.35¹" in text or "12.34¹" in text
    assert "lower is better" in text


def test_where_the_best_is(shelf, tmp_path):
    report = Report(
        shelf.study(
            {("linear", "10%"): [0.5, 0.5], ("const", "10%"): [0.5, 0.5]},
            value="best_progress",
            paper="5",
            task="cifar10",
        )
    )
    text = printed(report, 100)
    assert "1.0000" in text
    assert "[0.9860]" in text
    report.write(tmp_path / "r")


# The page in a real browser

BROWSER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser():
    if None in BROWSER:
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER[0]
    with tempfile.TemporaryDirectory() as profile:
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--no-first-run", "--window-size=1300,1600", f"--user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(BROWSER[1]))
        yield driver
        driver.quit()


def opened(browser, report: Report, out: Path):
    (page,) = report.write(out, ["html"])
    browser.get(page.as_uri())
    until = time.monotonic() + 30
    while not browser.execute_script("return document.body.dataset.ready"):
        assert time.monotonic() < until, "the page does not get ready"
        time.sleep(0.05)
    return page


def column(browser, number: int) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#table0 tbody tr')].map(r => r.children[arguments[0]].textContent)",
        number,
    )


def becomes(read, expected, seconds=10.0) -> bool:
    """Whether what is read is as expected within some seconds: a page draws when it comes to it."""
    until = time.monotonic() + seconds
    while (found := read()) != expected:
        assert time.monotonic() < until, found
        time.sleep(0.05)
    return True


def click(browser, selector: str, number: int = 0) -> None:
    from selenium.webdriver.common.by import By

    element = browser.find_elements(By.CSS_SELECTOR, selector)[number]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def test_the_page_opens_from_disk_without_a_network(browser, partial, tmp_path):
    page = opened(browser, partial, tmp_path / "r")
    assert browser.title == "A study & its <title>"
    assert browser.get_log("browser") == []
    text = page.read_text()
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in asked if not name.startswith(("blob:", "data:"))] == []
    assert "PARTIAL: runs are missing" in text
    assert "Partial: runs are missing." in browser.find_element("css selector", ".partial").text


def test_a_click_sorts_the_table_by_its_numbers(browser, report, tmp_path):
    opened(browser, report, tmp_path / "r")
    assert column(browser, 0) == ["linear", "step-d2", "exp & co_1"]
    click(browser, "#table0 thead th", 1)
    assert becomes(lambda: column(browser, 0), ["exp & co_1", "step-d2", "linear"])
    click(browser, "#table0 thead th", 1)
    assert becomes(lambda: column(browser, 0), ["linear", "step-d2", "exp & co_1"])


def test_the_curves_are_drawn_and_can_be_a_share_of_the_full_budgets(browser, report, tmp_path):
    opened(browser, report, tmp_path / "r")
    names = "return document.getElementById('budgets0').data.map(t => t.name)"
    assert browser.execute_script(names) == ["linear", "step-d2", "exp & co_1", "efficient frontier"]
    first = "return document.getElementById('budgets0').data[0].y"
    assert browser.execute_script(first) == [0.65, 0.89, 0.95]
    click(browser, ".buttons button", 1)
    assert browser.execute_script(first) == pytest.approx([0.65 / 0.953, 0.89 / 0.953, 0.95 / 0.953])


def test_runs_are_shown_on_demand(browser, partial, tmp_path):
    opened(browser, partial, tmp_path / "r")
    lines = "return (document.getElementById('curves').data ?? []).length"
    assert browser.execute_script(lines) == 0
    click(browser, "#runs tr[data-run]", 0)
    click(browser, "#runs tr[data-run]", 3)
    assert becomes(lambda: browser.execute_script(lines), 6)
    details = browser.find_element("css selector", "#details").text
    assert "linear, 1%, seed 0 (t)" in details
    assert "spec: schedule" in details
    click(browser, "#runs tr[data-run]", 0)
    assert becomes(lambda: browser.execute_script(lines), 3)
    assert "linear, 1%, seed 0" not in browser.find_element("css selector", "#details").text


def test_runs_can_be_searched(browser, partial, tmp_path):
    opened(browser, partial, tmp_path / "r")
    browser.find_element("css selector", "input[type=search]").send_keys("failed")
    rows = "return [...document.querySelectorAll('#runs tbody tr')].map(r => r.textContent)"
    assert becomes(lambda: len(browser.execute_script(rows)), 1)
    assert "const" in browser.execute_script(rows)[0]


def test_results_and_tables_agree(partial):
    runs = results.runs_of(partial.manifest)
    (table,) = tables.tables_of(partial.manifest, runs)
    assert table.cell("linear", "1%").values == (0.65, 0.61, 0.66)


@pytest.fixture
def vision(shelf) -> Report:
    """Two tasks of the paper's, one of them known by two metrics, with schedules of their own."""
    cells = {("off-the-shelf", "100%"): [0.38, 0.37, 0.39], ("linear", "100%"): [0.38, 0.39, 0.4]}
    coco = {"metric": "box_ap", "judged_by": "final", "also": ["mask_ap"]}
    given = {"paper": "3,4", "value": "task", "figures": ["tasks", "schedules", "budgets"]}
    one = shelf.study(cells, task="coco", facts=coco, **given)
    for path in shelf.out.glob("coco*/result.json"):
        content = json.loads(path.read_text())
        content["final"] = {"box_ap": content["metric"]["final"], "mask_ap": content["metric"]["final"] - 0.04}
        path.write_text(json.dumps(content))
    other = shelf.study(cells, task="cityscapes", facts={"metric": "miou", "judged_by": "best"}, **given)
    rows = [{"label": label, "schedule": label} for label, _ in cells]
    study = {**other.content["study"], "rows": rows}
    tasks = one.content["tasks"] | other.content["tasks"]
    return Report(Manifest.write(shelf.out, study, tasks, one.content["cells"] + other.content["cells"]))


def test_tasks_side_by_side(vision, tmp_path):
    """The paper's figure 3; each metric has a table, a heading and a file of its own."""
    text = printed(vision, 120)
    assert text.index("\ncoco\n") < text.index("\ncoco, mask_ap\n") < text.index("\ncityscapes\n")
    assert "[0.3763]" in text  # the paper's box AP by its own step decay
    assert "[0.3399]" in text  # mask AP
    assert "[0.7601]" in text  # mIoU by poly
    names = {path.name for path in vision.write(tmp_path / "r")}
    assert {
        "tasks.png",
        "tasks.svg",
        "budgets-coco.png",
        "budgets-coco--mask_ap.png",
        "budgets-cityscapes.png",
    } <= names
    assert matplotlib.image.imread(tmp_path / "r" / "tasks.png")[..., :3].std() > 0.03
    page = (tmp_path / "r" / "index.html").read_text()
    assert "<h2>coco, mask_ap</h2>" in page
    lines = list(csv.DictReader((tmp_path / "r" / "table.csv").read_text().splitlines()))
    assert {(line["task"], line["metric"], line["value"]) for line in lines} == {
        ("coco", "box_ap", "final"), ("coco", "mask_ap", "final"), ("cityscapes", "miou", "best"),
    }  # fmt: skip
