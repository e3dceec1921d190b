"""Tasks by name: ours, and a user's own as `path/to/file.py:Name` or `module:Name`."""

from __future__ import annotations

import importlib
from typing import Any, cast

from ..core.errors import TaskError
from ..core.loading import load_object
from ..core.text import nearest
from ..train.task import Task

OURS = {
    "digits": "digits:Digits",
    "fashion-mnist": "fashion_mnist:FashionMNIST",
    "cifar10": "cifar10:Cifar10",
    "cifar10-narrow": "cifar10:Cifar10Narrow",
    "stdlib-lm": "stdlib_lm:StdlibLM",
}
_NEEDED = ("full_budget", "metric", "maximize", "data", "model", "optimizer", "loss", "evaluate")


def load(name: str) -> Task:
    """The task of that name.

    Args:
        name: one of ours, or `path/to/file.py:Name`, or `module:Name`; Name is a class without arguments or an object.

    Raises:
        TaskError: where it is unknown, cannot be imported, or lacks what a task needs.
    """
    if name in OURS:
        module, _, attribute = OURS[name].partition(":")
        return cast(Task, getattr(importlib.import_module(f".{module}", __package__), attribute)())
    if ":" not in name:
        known = ", ".join(OURS)
        raise TaskError(
            f"task '{name}' is unknown; the tasks are {known}, or your own as file.py:Name{nearest(name, OURS)}"
        )
    found = load_object(name)
    try:
        task = found() if isinstance(found, type) else found
    except TypeError as error:
        raise TaskError(f"task '{name}' cannot be made without arguments ({error})") from None
    return _complete(task, name)


def _complete(task: Any, name: str) -> Task:
    missing = [attribute for attribute in _NEEDED if not hasattr(task, attribute)]
    if missing:
        raise TaskError(f"task '{name}' lacks {', '.join(missing)}; see budgeted.Task for what a task has")
    for attribute, default in (("name", name), ("warmup", None)):
        if not hasattr(task, attribute):
            setattr(task, attribute, default)
    return cast(Task, task)
