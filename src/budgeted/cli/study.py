"""`budgeted study`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import BudgetedError
from ..core.text import file_name
from . import options

if TYPE_CHECKING:
    from ..study.engine import Engine
    from ..study.plan import Study

_REPORT = ("pandas", "scipy", "statsmodels", "scikit_posthocs", "plotly", "itables", "matplotlib")


@click.command()
@click.argument("name", required=False, metavar="[NAME|FILE.toml]")
@click.option("--task", "tasks", multiple=True, help="The task, instead of the study's own; several times for several.")
@click.option("--budgets", help="Some of its budgets, or others: '1%,5%,10%'.")
@click.option("--seeds", help="How many seeds, or which: 3, or '0,1,2'.  [default: the study's]")
@click.option(
    "--row", "rows", multiple=True, help="One of its rows, by its label, instead of all; several times for several."
)
@click.option("--refined", is_flag=True, help="A row more: the schedule that the linear row's gradient norms ask for.")
@click.option("--precision", help="As of budgeted train.  [default: the study's]")
@click.option("--name", "called", help="What the study's folder is called.  [default: NAME-TASK]")
@options.many_runs
@click.option("--no-share", is_flag=True, help="Train each run alone, from its first update.")
@options.retry
@click.option("--dry-run", is_flag=True, help="Say what would be trained, and train nothing.")
@click.option("--tensorboard", is_flag=True, help="Write each run's rows as TensorBoard event files.")
@click.option("--mlflow", is_flag=True, help="Log each run to MLflow.")
@click.option("--wandb", is_flag=True, help="Log each run to Weights & Biases.")
@click.option("--no-report", is_flag=True, help="Print no table at the end, and write no report.")
def study(
    name: str | None,
    tasks: tuple[str, ...],
    budgets: str | None,
    seeds: str | None,
    rows: tuple[str, ...],
    refined: bool,
    precision: str | None,
    called: str | None,
    out: Path,
    data: Path | None,
    device: str | None,
    jobs: int | None,
    ray: str | None,
    gpus: float | None,
    save_every: str,
    keep: str,
    no_share: bool,
    retry: bool,
    dry_run: bool,
    tensorboard: bool,
    mlflow: bool,
    wandb: bool,
    no_report: bool,
) -> None:
    """Train a whole table: schedules x budgets x seeds, each run once.

    NAME is one of those that are listed without it, or a TOML file. What is finished is not trained again, in this study or
    another with the same --out; what was interrupted goes on; what failed is kept with its error. Afterwards the table is
    printed, and tables, figures and a page are written to OUT/studies/NAME-TASK.

    \b
    budgeted study quick
    budgeted study table2 --task fashion-mnist --budgets 1%,5%,10% --jobs 2
    budgeted study mine.toml
    """
    from ..study.plan import Row
    from ..study.read import built_in, read_study

    if name is None:
        width = max(map(len, built_in()))
        for each, title in built_in().items():
            click.echo(f"  {each:{width}}  {title}")
        return
    seconds = options.seconds("--save-every", save_every)
    changed = {} if precision is None else {"precision": precision}
    wanted = read_study(name).narrowed(
        tasks=tasks, budgets=_list(budgets), seeds=read_seeds(seeds), rows=rows, **changed
    )
    wanted = wanted.narrowed(name=_called(called or wanted.name, () if called else wanted.tasks))
    if refined:
        wanted = wanted.with_row(Row("refined(linear)", "refined"))
    trackers = [t for t, given in (("tensorboard", tensorboard), ("mlflow", mlflow), ("wandb", wandb)) if given]
    if trackers:
        from ..integrations.trackers import require

        require(trackers)
    if not (no_report or dry_run):
        options.require_packages(_REPORT, ", or give --no-report")
    from ..study.work import Options

    root = None if data is None else str(data.resolve())
    how = Options(str(out.resolve()), root, device, seconds, keep, tuple(trackers))  # type: ignore[arg-type]
    with engine_for(jobs, ray, gpus, device) as engine:
        if dry_run:
            _say_what(wanted, engine, how, share=not no_share)
            return
        from ..report.study_live import watch
        from ..study.conduct import conduct

        standings = conduct(wanted, engine, how, share=not no_share, retry=retry)
        manifest, failed = watch(standings, wanted.name, out, shown=sys.stderr.isatty())
    if not no_report:
        from .report import report_on

        report_on([manifest], None)
    if failed:
        raise click.exceptions.Exit(1)  # which runs, and why, was said


def _called(name: str, tasks: tuple[str, ...]) -> str:
    return "-".join([file_name(name.replace("/", "-")), *map(file_name, tasks)])


def _list(text: str | None) -> list[str]:
    """Parts between commas that stand in no parentheses."""
    parts, depth = [""], 0
    for character in text or "":
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def read_seeds(text: str | None) -> list[int]:
    """How many seeds, or which.

    Raises:
        BudgetedError: for what is neither.
    """
    try:
        numbers = [int(part) for part in _list(text)]
    except ValueError:
        raise BudgetedError(
            f"--seeds '{text}' is neither a number of seeds nor a list of them; write 3, or 0,1,2"
        ) from None
    if len(numbers) == 1 and "," not in (text or ""):
        if numbers[0] < 1:
            raise BudgetedError(f"--seeds {text}: at least one is needed")
        return list(range(numbers[0]))
    return numbers


def engine_for(jobs: int | None, ray: str | None, gpus: float | None, device: str | None) -> Engine:
    """Where --jobs, --ray, --gpus and --device say.

    Raises:
        BudgetedError: for options that do not go together.
    """
    if gpus is not None and ray is None:
        raise BudgetedError("--gpus goes with --ray; local processes take turns on the GPUs that there are")
    if ray is not None:
        if jobs is not None:
            raise BudgetedError("--jobs is of this machine; with --ray the cluster decides how many run at once")
        from ..study.ray_engine import RayEngine

        return RayEngine(ray, gpus=gpus or 0.0)
    if jobs == 0:
        from ..study.engine import InProcess

        return InProcess()
    from ..study.processes import Processes, cores

    there = 0
    if device is None or device.startswith("cuda"):
        import torch

        there = torch.cuda.device_count()
    if device is not None and ":" in device:
        there = min(there, 1)  # that one alone
    return Processes(jobs or there or cores(), gpus=there)


def _say_what(wanted: Study, engine: Engine, options: Any, *, share: bool) -> None:
    from ..study.conduct import forecast

    there, missing, updates, saved = forecast(wanted, engine, options, share=share)
    click.echo(
        f"{wanted.name}: {there + missing} runs, of which {there} are finished; "
        f"{missing} would be trained, {updates:,} updates"
        + (f", {saved:,} of them made for several runs at once" if saved else "")
    )
