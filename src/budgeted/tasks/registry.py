"""Tasks by name: ours, and a user's own as `path/to/file.py:Name` or `module:Name`."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, cast

from ..core.errors import BudgetedError, TaskError
from ..core.loading import load_object
from ..core.spec import read_call
from ..core.text import nearest
from ..train.recipe import whole
from ..train.task import Task

OURS = {
    "digits": "digits:Digits",
    "fashion-mnist": "fashion_mnist:FashionMNIST",
    "cifar10": "cifar10:Cifar10",
    "cifar10-narrow": "cifar10:Cifar10Narrow",
    "imagenet": "imagenet:ImageNet",
    "imagenette64": "imagenet:Imagenette64",
    "coco": "coco:Coco",
    "cityscapes": "cityscapes:Cityscapes",
    "camvid": "cityscapes:CamVid",
    "kinetics": "kinetics:Kinetics",
    "stdlib-lm": "stdlib_lm:StdlibLM",
}
_NEEDED = ("full_budget", "metric", "maximize", "data", "model", "optimizer", "loss", "evaluate")


def load(name: str) -> Task:
    """The task of that name.

    Args:
        name: one of ours, those that can be scaled with arguments such as `imagenet(batch=32, crop=64)`; or `path/to/file.py:Name`,
            or `module:Name`; Name is a class without arguments or an object.

    Raises:
        TaskError: where it is unknown, cannot be imported, or lacks what a task needs.
    """
    stem = name.partition("(")[0].strip()
    if stem in OURS:
        return _ours(stem, name)
    if ":" not in stem:
        known = ", ".join(OURS)
        raise TaskError(
            f"task '{name}' is unknown; the tasks are {known}, or your own as file.py:Name{nearest(stem, OURS)}"
        )
    found = load_object(name)
    try:
        task = found() if isinstance(found, type) else found
    except TypeError as error:
        raise TaskError(f"task '{name}' cannot be made without arguments ({error})") from None
    return _complete(task, name)


def _ours(stem: str, text: str) -> Task:
    module, _, attribute = OURS[stem].partition(":")
    kind = getattr(importlib.import_module(f".{module}", __package__), attribute)
    try:
        _, positional, named = read_call(text, f"task '{text}'", ("imagenet", "imagenet(batch=32, crop=64)"))
    except BudgetedError as error:
        raise TaskError(str(error)) from None
    known = [] if kind.__init__ is object.__init__ else list(inspect.signature(kind).parameters)
    if positional or any(key not in known for key in named):
        what = f"its arguments are {', '.join(f'{key}=...' for key in known)}" if known else "it has no arguments"
        raise TaskError(f"task '{text}' is not understood: {what}")
    return cast(Task, kind(**{key: whole(value) for key, value in named.items()}))


def _complete(task: Any, name: str) -> Task:
    missing = [attribute for attribute in _NEEDED if not hasattr(task, attribute)]
    if missing:
        raise TaskError(f"task '{name}' lacks {', '.join(missing)}; see budgeted.Task for what a task has")
    for attribute, default in (("name", name), ("warmup", None)):
        if not hasattr(task, attribute):
            setattr(task, attribute, default)
    return cast(Task, task)
