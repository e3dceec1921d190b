"""`budgeted train`."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..core.budget import Amount, Budget
from ..core.clock import process_age
from ..core.errors import BudgetedError, Interrupted
from ..core.record import RunFolder, Spec, finite
from ..core.refine import inner, is_refined
from ..core.replay import copy_trace, replayed
from ..core.spec import schedule as read_schedule
from . import options


@click.command()
@click.argument("task", default="digits")
@click.option("--budget", "budget_text", help="For instance 45min, 5%, '10ep or 1h'.  [default: 30s]")
@click.option("--schedule", default="linear", show_default=True, help="See `budgeted schedule`.")
@click.option("--warmup", help="A ramp before the schedule: '500 steps', 30s or 5%.  [default: the task's]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--model", help="Another of the task's models, 'resnet18(width=16)', or your own as file.py:Name.")
@click.option("--optimizer", help="Another optimizer: muon, adamw, 'sgd(momentum=0.9, lr=0.1)'.")
@click.option("--lr", type=float, help="Another base rate.  [default: the recipe's]")
@click.option("--subset", type=float, help="The share of the training data to draw, once, before training: 0.1.")
@options.out
@options.data
@options.device
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="auto measures; or float32, float32-channels-last, bf16, bf16-channels-last.",
)
@click.option("--deterministic", is_flag=True, help="The same seed gives the same weights to the bit.")
@click.option("--no-refresh", is_flag=True, help="Leave batch norm's statistics at the end as training left them.")
@click.option(
    "--evaluations",
    type=click.IntRange(1),
    help="How often to evaluate.  [default: each epoch; 10 under a time budget]",
)
@click.option(
    "--probes",
    type=click.IntRange(2),
    help="Measure the full gradient's norm so often, from the first update to the last.  [default: never]",
)
@click.option("--probe-share", type=float, help="With --probes: on a random share of the training data, such as 0.1.")
@click.option("--free-probes", is_flag=True, help="With --probes: a budget in time does not pay for them.")
@click.option("--no-curve", is_flag=True, help="Do not draw curve.png: matplotlib's start is charged to the budget.")
@click.option(
    "--average",
    help="Evaluate the weights' average beside them: ema, ema(0.999), lawa, lawa(5, 0.05).  [default: none]",
)
@click.option(
    "--save-every",
    default="5min",
    show_default=True,
    metavar="TIME",
    help="The longest time without a checkpoint: what a kill can cost.",
)
@click.option(
    "--resume",
    metavar="RUN",
    help="Go on where a run folder's last checkpoint is; 'auto': with the unfinished run of these very options, if any.",
)
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Train as RUN did, at the progress that it had at each update; the same bits if it was deterministic.",
)
@click.option(
    "--extend", "change", flag_value="extend", help="With --resume and --budget: go on under a longer budget."
)
@click.option(
    "--shorten", "change", flag_value="shorten", help="With --resume and --budget: go on under a shorter one."
)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def train(
    task: str,
    budget_text: str | None,
    schedule: str,
    warmup: str | None,
    seed: int,
    model: str | None,
    optimizer: str | None,
    lr: float | None,
    subset: float | None,
    out: Path,
    data: Path | None,
    device: str | None,
    precision: str,
    deterministic: bool,
    no_refresh: bool,
    evaluations: int | None,
    probes: int | None,
    probe_share: float | None,
    free_probes: bool,
    no_curve: bool,
    average: str | None,
    save_every: str,
    resume: str | None,
    replay: Path | None,
    change: str | None,
    as_json: bool,
) -> None:
    """Train TASK until the budget ends, and keep the best checkpoint that it buys.

    Seconds count from the start of this process: 20s are 20 s to the person who waits, imports and data included.
    SIGINT (Ctrl-C), SIGTERM and SIGUSR1 stop the run with a checkpoint; --resume goes on from it, and from what a kill has
    left. While it trains, `budgeted extend` and `budgeted stop` change its budget from another terminal.

    \b
    budgeted train
    budgeted train fashion-mnist --budget 5% --schedule cosine
    budgeted train mine.py:MyTask --budget "1h or 30ep"
    budgeted train --resume runs/digits-0123456789
    """
    seconds = options.seconds("--save-every", save_every)
    folder, replaced = None, None
    if resume is not None and resume != "auto":
        _require_only("--resume", (*_DEFINITION, "out", "replay"))
        folder = RunFolder.open(Path(resume))
        spec = folder.spec
        replaced = _changed_budget(folder.budget, budget_text, change)
        if folder.result is not None:
            raise BudgetedError(f"'{resume}' is finished: its budget is spent; train anew with a larger one")
    elif change is not None:
        raise BudgetedError(f"--{change} goes with --resume RUN and a new --budget")
    elif replay is not None:
        _require_only("--replay", (*_DEFINITION, "budget_text", "resume"))
        spec = replayed(RunFolder.open(replay))
    else:
        budget = Budget.parse("30s" if budget_text is None else budget_text)
        plan = _plan(schedule, warmup)
        _require_positive(lr, subset)
        _require_probes(probes, probe_share, free_probes)
        spec = Spec(
            task, str(budget), plan, seed, deterministic, precision, not no_refresh, evaluations, average,
            model=model, optimizer=optimizer, lr=lr, subset=subset, probes=probes, probe_share=probe_share,
            probes_charged=False if free_probes else None,
        )  # fmt: skip
    # From here on PyTorch is imported: what can be wrong in a line of text was found before.
    from ..tasks import registry

    chosen = registry.load(spec.task)
    if folder is None and replay is None and warmup is None and chosen.warmup is not None:
        spec = replace(spec, schedule=_plan(schedule, chosen.warmup))
    if average is not None:
        from ..train.averaging import read_average

        spec = replace(spec, average=str(read_average(average)))
    _check_device(device)
    from ..train.team import Team

    team, new = Team.join(), False
    if folder is None and team.leads:
        folder = RunFolder.unfinished(out, spec) if resume == "auto" else None
        new = folder is None
        if folder is None:
            folder = RunFolder.create(out, spec)
            if replay is not None:
                copy_trace(RunFolder.open(replay), folder)
    folder = team.firsts(folder)
    assert folder is not None
    try:
        result = _run(chosen, spec, folder, data, device, seconds, replaced, not no_curve)
    except BaseException as error:
        if new:
            folder.discard()  # of what never trained, nothing is left behind
        if not isinstance(error, Interrupted):
            raise
        # What else the command needs to go on is not in the folder.
        again = [("--data", data), ("--device", device)]
        where = "".join(f" {option} {shlex.quote(str(given))}" for option, given in again if _on_command_line(option))
        raise Interrupted(f"{error}{where}") from None
    if not team.leads:
        return
    if as_json:
        click.echo(json.dumps(finite(result)))
    else:
        _summarize(result)


def _plan(schedule: str, warmup: str | None) -> str:
    """The schedule's own text, with its warm-up."""
    if schedule.startswith("refined("):
        if warmup is not None or not is_refined(schedule) or schedule.count("refined(") > 1:
            raise BudgetedError(
                f"schedule '{schedule}' stands alone, as in refined(linear): gradient norms ask for a warm-up by themselves; "
                "leave the rest out, or name a run whose schedule may be part of another, as in refined:runs/NAME"
            )
        return f"refined({read_schedule(inner(schedule))})"
    return str(read_schedule(schedule if warmup is None else f"warmup({warmup}, {schedule})"))


def _on_command_line(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name.removeprefix("--"))
    return source is click.core.ParameterSource.COMMANDLINE


# Options that would make it another run.
_DEFINITION = (
    "task", "schedule", "warmup", "seed", "precision", "deterministic", "no_refresh", "evaluations", "average",
    "model", "optimizer", "lr", "subset", "probes", "probe_share", "free_probes",
)  # fmt: skip


def _require_only(option: str, others: tuple[str, ...]) -> None:
    """The run is what a folder says: what would make it another one is refused, not passed over."""
    for name in others:
        if _on_command_line(name):
            given = "TASK" if name == "task" else f"--{name.removesuffix('_text').replace('_', '-')}"
            raise BudgetedError(f"{given} does not go with {option}: the run is as its folder says; leave it out")


def _require_positive(lr: float | None, subset: float | None) -> None:
    if lr is not None and not 0 < lr < math.inf:
        raise BudgetedError(f"--lr is a positive number, and is {lr}")
    if subset is not None and not 0 < subset <= 1:
        raise BudgetedError(f"--subset is a share above 0 and up to 1, and is {subset}")


def _require_probes(probes: int | None, share: float | None, free: bool) -> None:
    if share is not None and not 0 < share <= 1:
        raise BudgetedError(f"--probe-share is a share above 0 and up to 1, and is {share}")
    if probes is None and (share is not None or free):
        raise BudgetedError(f"{'--free-probes' if free else '--probe-share'} goes with --probes: how often to measure")


def _changed_budget(now: str, text: str | None, change: str | None) -> Budget | None:
    """The budget that replaces the old one on resume, if one was given and meant."""
    if text is None:
        if change is not None:
            raise BudgetedError(f"--{change} needs the new budget: --budget")
        return None
    new = Budget.parse(text)
    if change is None:
        if str(new) == now:
            return None
        raise BudgetedError(
            f"the run was made under budget '{now}' and is resumed under '{new}': taken as a share of the new one, "
            "the rate would jump; add --extend or --shorten and the decay bends from where it is to the new end"
        )
    _require_direction(Budget.parse(now), new, change)
    return new


def _require_direction(old: Budget, new: Budget, change: str) -> None:
    """Where both are one amount of one unit, --extend must mean more and --shorten less."""
    match (old.limits, new.limits):
        case ((Amount() as before,), (Amount() as after,)) if before.unit == after.unit:
            if after.amount == before.amount or (after.amount > before.amount) != (change == "extend"):
                raise BudgetedError(
                    f"--{change} from '{old}' to '{new}' is no such change; give another budget, or the other option"
                )


def _check_device(device: str | None) -> None:
    if device is None:
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise BudgetedError(f"device '{device}' cannot be used here ({reason}); give cpu, or leave it out") from None


def _run(
    task: Any,
    spec: Spec,
    folder: RunFolder,
    data: Path | None,
    device: str | None,
    save_every: float,
    replaced: Budget | None,
    curve: bool,
) -> dict[str, Any]:
    from ..report.live import live
    from ..train.loop import fit

    picture: Callable[[RunFolder], None] | None = None
    if curve:
        from ..report.curve import draw_curve

        picture = draw_curve
    rows = fit(
        task,
        spec,
        folder,
        root=data,
        device=device,
        anchor="process",
        reserve=min(
            max(0.15, 0.04 * process_age()), 1.0
        ),  # to print the summary and leave the interpreter, as slow as it began
        save_every=save_every,
        picture=picture,
        change=replaced,
    )
    return live(rows, spec, task.metric, shown=sys.stderr.isatty())


def _summarize(result: dict[str, Any]) -> None:
    from ..report.summary import print_summary

    print_summary(result)
