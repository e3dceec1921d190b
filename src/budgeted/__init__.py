"""budgeted: the best model that a budget can buy.

Any limit (`45min`, `until 18:00`, `$20 at $2.5/h`, `10ep`) drives the learning rate to its end exactly when the
budget ends. Importing this package imports no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.budget import Budget
from .core.compose import Cooldown, Floor, Join, Over, Repeat, Warmup, With
from .core.convert import convert
from .core.errors import (
    BudgetedError,
    BudgetError,
    BudgetWarning,
    NonFiniteLoss,
    RunFolderError,
    ScheduleError,
    TaskError,
)
from .core.schedule import (
    HTD,
    REX,
    SGDR,
    WSD,
    Const,
    Cosine,
    Exp,
    InverseSqrt,
    Linear,
    OneCycle,
    Plateau,
    Points,
    Poly,
    Schedule,
    Step,
)
from .core.spec import schedule

if TYPE_CHECKING:
    from .train.attach import Run, Summary, attach
    from .train.loop import fit
    from .train.muon import Muon
    from .train.task import Task

__version__ = "0.1.0"
_LAZY = {
    "attach": "train.attach",
    "Run": "train.attach",
    "Summary": "train.attach",
    "fit": "train.loop",
    "Muon": "train.muon",
    "Task": "train.task",
}
__all__ = [
    "HTD", "REX", "SGDR", "WSD", "Budget", "BudgetError", "BudgetWarning", "BudgetedError", "Const", "Cooldown", "Cosine",
    "Exp", "Floor", "InverseSqrt", "Join", "Linear", "Muon", "NonFiniteLoss", "OneCycle", "Over", "Plateau", "Points", "Poly",
    "Repeat", "Run", "RunFolderError", "Schedule", "ScheduleError", "Step", "Summary", "Task", "TaskError", "Warmup", "With",
    "attach", "convert", "fit", "schedule",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'budgeted' has no attribute '{name}'")
    import importlib

    try:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f"budgeted.{name} needs PyTorch: pip install 'budgeted[train]'", name="torch"
        ) from error


def __dir__() -> list[str]:
    return __all__
