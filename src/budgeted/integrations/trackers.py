"""A run's rows in TensorBoard, MLflow or Weights & Biases, through their own libraries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from ..core.errors import BudgetedError
from ..core.record import RunFolder, Spec

Row = Mapping[str, Any]
Teller = Callable[[Row], None]


@contextmanager
def track(names: Sequence[str], folder: RunFolder, spec: Spec) -> Iterator[Teller]:
    """A function that tells the trackers of a row; on leaving they are told the result and let go.

    Args:
        names: of `TRACKERS`.
        folder: the run's; TensorBoard's event files go into it.
        spec: what defines the run.

    Raises:
        BudgetedError: for an unknown name, or a library that is not installed.
    """
    with ExitStack() as stack:
        tellers = [stack.enter_context(_open(name, folder, spec)) for name in names]

        def tell(row: Row) -> None:
            for teller in tellers:
                teller(row)

        yield tell


def require(names: Sequence[str]) -> None:
    """Refuse a tracker that is unknown or whose library is missing, before anything is trained.

    Raises:
        BudgetedError: with what to install.
    """
    import importlib.util

    for name in names:
        if name not in TRACKERS:
            raise BudgetedError(f"tracker '{name}' is unknown; they are {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise BudgetedError(f"--{name} needs {name}, which is not installed: pip install {name}")


def _open(name: str, folder: RunFolder, spec: Spec) -> Any:
    require([name])
    return TRACKERS[name](folder, spec)


def figures(row: Row) -> dict[str, float]:
    """The numbers of a row, without those that count it."""
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and key not in ("steps", "left")
    }


@contextmanager
def _tensorboard(folder: RunFolder, spec: Spec) -> Iterator[Teller]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder.path / "tensorboard"))
    try:

        def tell(row: Row) -> None:
            for key, value in figures(row).items():
                writer.add_scalar(key, value, row["steps"])

        yield tell
        if (best := _best(folder)) is not None:
            defining = {k: v for k, v in asdict(spec).items() if isinstance(v, bool | str | float | int)}
            writer.add_hparams(defining, {f"hparam/{best[0]}": best[1]}, run_name=".")
    finally:
        writer.close()


@contextmanager
def _mlflow(folder: RunFolder, spec: Spec) -> Iterator[Teller]:
    """By a client and the run's own id, since runs that train together are logged side by side."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient()
    experiment = client.get_experiment_by_name(spec.task)
    number = experiment.experiment_id if experiment else client.create_experiment(spec.task)
    found = client.search_runs([number], f"tags.`budgeted.folder` = '{folder.path.name}'", max_results=1)
    if found:  # it goes on
        run = found[0].info.run_id
    else:
        run = client.create_run(
            number, run_name=folder.path.name, tags={"budgeted.folder": folder.path.name}
        ).info.run_id
        client.log_batch(run, params=[Param(k, str(v)) for k, v in asdict(spec).items() if v is not None])

    def tell(row: Row) -> None:
        now, step = int(time.time() * 1000), int(row["steps"])
        client.log_batch(run, metrics=[Metric(key, value, now, step) for key, value in figures(row).items()])

    yield tell
    if (best := _best(folder)) is not None:
        client.log_metric(run, f"best_{best[0]}", best[1])
    if folder.result is not None:
        client.set_terminated(run)


@contextmanager
def _wandb(folder: RunFolder, spec: Spec) -> Iterator[Teller]:
    import wandb

    run = wandb.init(
        project="budgeted", name=folder.path.name, id=folder.path.name, group=spec.task, config=asdict(spec),
        dir=str(folder.path), resume="allow", reinit="create_new",
    )  # fmt: skip
    try:

        def tell(row: Row) -> None:
            run.log(figures(row), step=int(row["steps"]))

        yield tell
        if (best := _best(folder)) is not None:
            run.summary[f"best_{best[0]}"] = best[1]
    finally:
        run.finish()


def _best(folder: RunFolder) -> tuple[str, float] | None:
    """The metric and its best value, of a run that has ended with one."""
    result = folder.result
    if result is None or result["metric"]["best"] is None:
        return None
    return result["metric"]["name"], result["metric"]["best"]


TRACKERS: dict[str, Callable[[RunFolder, Spec], Any]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
