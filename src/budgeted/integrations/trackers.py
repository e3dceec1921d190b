"""A run's rows in TensorBoard, MLflow or Weights & Biases, through their own libraries."""

from __future__ import annotations

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
        if (result := folder.result) is not None:
            defining = {k: v for k, v in asdict(spec).items() if isinstance(v, bool | str | float | int)}
            best = {f"hparam/{result['metric']['name']}": result["metric"]["best"]}
            writer.add_hparams(defining, best, run_name=".")
    finally:
        writer.close()


@contextmanager
def _mlflow(folder: RunFolder, spec: Spec) -> Iterator[Teller]:
    import mlflow

    mlflow.set_experiment(spec.task)
    with mlflow.start_run(run_name=folder.path.name, tags={"budgeted.key": spec.key}):
        mlflow.log_params({k: v for k, v in asdict(spec).items() if v is not None})

        def tell(row: Row) -> None:
            mlflow.log_metrics(figures(row), step=int(row["steps"]))

        yield tell
        if (result := folder.result) is not None:
            mlflow.log_metric(f"best_{result['metric']['name']}", result["metric"]["best"])


@contextmanager
def _wandb(folder: RunFolder, spec: Spec) -> Iterator[Teller]:
    import wandb

    run = wandb.init(
        project="budgeted", name=folder.path.name, id=folder.path.name, group=spec.task, config=asdict(spec),
        dir=str(folder.path), resume="allow", reinit="finish_previous",
    )  # fmt: skip
    try:

        def tell(row: Row) -> None:
            run.log(figures(row), step=int(row["steps"]))

        yield tell
        if (result := folder.result) is not None:
            run.summary[f"best_{result['metric']['name']}"] = result["metric"]["best"]
    finally:
        run.finish()


TRACKERS: dict[str, Callable[[RunFolder, Spec], Any]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
