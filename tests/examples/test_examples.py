"""The examples: few lines differ, the page shows which, and they end inside their budget.

`python tests/examples/test_examples.py` writes the differences into the page.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES, PAGE = ROOT / "examples", ROOT / "docs" / "drop-in.md"
NAMES = ("image_classifier", "language_model")


def difference(name: str) -> list[str]:
    before, after = ((EXAMPLES / f"{name}{end}.py").read_text().splitlines() for end in ("", "_budgeted"))
    return list(difflib.unified_diff(before, after, f"{name}.py", f"{name}_budgeted.py", n=1, lineterm=""))


def block(name: str) -> str:
    return "\n".join([f"<!-- diff of {name} -->", "```diff", *difference(name), "```"])


def updated(page: str) -> str:
    for name in NAMES:
        page = re.sub(rf"<!-- diff of {name} -->\n```diff\n.*?\n```", lambda _, n=name: block(n), page, flags=re.DOTALL)
    return page


@pytest.mark.parametrize("name", NAMES)
def test_at_most_five_lines_are_written_to_put_a_loop_under_a_budget(name):
    written = [line for line in difference(name)[2:] if line.startswith("+") and line[1:].strip()]
    assert 0 < len(written) <= 5, written


def test_the_page_shows_the_differences_as_they_are():
    page = PAGE.read_text()
    assert all(f"<!-- diff of {name} -->" in page for name in NAMES)
    assert page == updated(page), "run python tests/examples/test_examples.py"


def test_the_task_of_ones_own_is_the_page_and_trains(tmp_path):
    code = (EXAMPLES / "own_task.py").read_text()
    assert code in (ROOT / "docs" / "tasks.md").read_text()
    command = [sys.executable, "-m", "budgeted.cli.main", "train", f"{EXAMPLES / 'own_task.py'}:BreastCancer"]
    done = subprocess.run(
        [*command, "--budget", "5ep", "--out", tmp_path, "--no-curve", "--json"], capture_output=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["spent"]["steps"] == 75
    assert result["metric"]["final"] > 0.9


def run_example(name: str, *arguments: str) -> str:
    if "BUDGETED_DATA" not in os.environ:
        pytest.skip(
            "the examples need real data: set BUDGETED_DATA to the folder that holds FashionMNIST and tinyshakespeare"
        )
    pytest.importorskip("torchvision")
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SMALL = ("--n_layer=1", "--n_embd=32", "--batch_size=4", "--eval_interval=100", "--eval_iters=3")


@pytest.mark.slow
def test_the_image_classifier_learns_in_seconds():
    out = run_example("image_classifier_budgeted", "--budget=5s")
    assert int(re.findall(r"Accuracy: (\d+)/10000", out)[-1]) > 3000


@pytest.mark.slow
def test_the_image_classifier_takes_any_budget():
    out = run_example("image_classifier_budgeted", "--budget=70 steps or 1h", "--log-interval=10")
    assert len(re.findall("^Train:", out, re.MULTILINE)) == 7
    assert out.count("Test set") == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_language_model_learns_in_seconds(dtype):
    out = run_example("language_model_budgeted", "--budget=5s", f"--dtype={dtype}", *SMALL)
    losses = [float(loss) for loss in re.findall(r"^step .* val loss (\S+)", out, re.MULTILINE)]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_what_the_examples_started_from_runs_too():
    out = run_example("language_model", "--max_iters=3", "--warmup_iters=1", *SMALL)
    assert out.count("val loss") == 2


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
