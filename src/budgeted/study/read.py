"""A study from a TOML file, or from one of those that come with the package.

title = "Two schedules"
tasks = ["digits"]                    # or task = "digits"
budgets = ["5%", "25%", "100%"]
seeds = 3                             # 0, 1, 2; or a list
schedules = ["linear", "step-d2"]     # a row each; with optimizers, models or lrs, a row for each of their combinations
models = ["random-resnet({0..11})"]   # a whole number in each of the places from 0 to 11
ranks = "linear"                      # of the schedules this one alone is trained at the last budget, the others are to
                                      # predict how it ranks the models, optimizers and rates there
value = "task"
figures = ["budgets"]
precision = "float32"

[[rows]]                              # instead of, or beside, schedules: rows with something of their own
label = "early-stopped"
schedule = "step-d2 over full"
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ..core.errors import StudyError
from ..core.text import nearest
from .plan import Row, Study

_AXES = {"schedules": "schedule", "models": "model", "optimizers": "optimizer", "lrs": "lr"}
# The kinds of what stands in a file: of one value, or of each in a list.
_KINDS: dict[str, tuple[type, ...]] = {
    "title": (str,), "task": (str,), "tasks": (str,), "budgets": (str,), "seeds": (int,), "value": (str,),
    "figures": (str,), "paper": (str,), "ranks": (str,), "precision": (str,), "deterministic": (bool,), "refresh": (bool,),
    "evaluations": (int,), "probes": (int,), "probe_share": (float,), "rows": (dict,), "schedules": (str,), "models": (str,), "optimizers": (str,), "lrs": (float, int),
}  # fmt: skip
_LISTS = {"tasks", "budgets", "figures", "rows", *_AXES}
_ROW_KINDS: dict[str, tuple[type, ...]] = {
    "label": (str,), "schedule": (str,), "model": (str,), "optimizer": (str,), "lr": (float, int), "average": (str,),
    "subset": (float, int, str), "budgets": (list,),
}  # fmt: skip


def built_in() -> dict[str, str]:
    """The studies of the package: their names and titles."""
    found = {}
    for file in sorted(resources.files(__package__).joinpath("builtin").iterdir(), key=lambda f: _order(f.name)):
        if file.name.endswith(".toml"):
            found[file.name.removesuffix(".toml")] = str(tomllib.loads(file.read_text(encoding="utf-8"))["title"])
    return found


def _order(name: str) -> tuple[str, int]:
    """table2 before table10."""
    digits = "".join(c for c in name if c.isdigit())
    return name.removesuffix(".toml").rstrip("0123456789"), int(digits or 0)


def read_study(given: str) -> Study:
    """A built-in study by its name, or one from a TOML file.

    Raises:
        StudyError: for an unknown name, a file that cannot be read, unknown keys, wrong kinds, and what `Study` refuses.
    """
    names = built_in()
    if given in names:
        text = resources.files(__package__).joinpath("builtin", f"{given}.toml").read_text(encoding="utf-8")
        return study_from(tomllib.loads(text), given)
    path = Path(given)
    if path.suffix != ".toml":
        raise StudyError(
            f"study '{given}' is unknown{nearest(given, names) or ';'} they are {', '.join(names)}, or your own as FILE.toml"
        )
    return study_from(read_toml(path, f"study '{given}'"), path.stem)


def read_toml(path: Any, what: str) -> dict[str, Any]:
    """What a TOML file holds.

    Args:
        path: of the file, or its resource.
        what: what it is of, for instance `study 'mine.toml'`.

    Raises:
        StudyError: for a file that cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"cannot read {what}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{what} is not TOML: {error}") from None


def study_from(found: Mapping[str, Any], name: str) -> Study:
    """A study from what a TOML file holds, or from a mapping of the same shape.

    Raises:
        StudyError: for unknown keys, wrong kinds, and what `Study` refuses.
    """
    where = f"study '{name}'"
    require_kinds(found, _KINDS, _LISTS, where)
    if "task" in found and "tasks" in found:
        raise StudyError(f"{where} has both task and tasks; keep one")
    given = {
        key: found[key]
        for key in (
            "title",
            "value",
            "paper",
            "ranks",
            "precision",
            "deterministic",
            "refresh",
            "evaluations",
            "probes",
            "probe_share",
        )
        if key in found
    }
    seeds = found.get("seeds", 3)
    tasks = found.get("tasks", [found["task"]] if "task" in found else [])
    return Study(
        name,
        tuple(_rows(found, where)),
        tuple(found.get("budgets", ())),
        tuple(seeds) if isinstance(seeds, list) else tuple(range(seeds)),
        tuple(tasks),
        figures=tuple(found.get("figures", ("budgets",))),
        **given,
    )


def _rows(found: Mapping[str, Any], where: str) -> Iterator[Row]:
    axes = {axis: list(_expanded(found[axis])) for axis in _AXES if axis in found}
    if axes and "schedules" not in axes:
        raise StudyError(f"{where} has {next(iter(axes))} and no schedules; name those too")
    if axes:
        for values in itertools.product(*axes.values()):
            named = {_AXES[axis]: value for axis, value in zip(axes, values, strict=True)}
            if "lr" in named:
                named["lr"] = float(named["lr"])
            yield Row(**named)
    for number, row in enumerate(found.get("rows", ()), 1):
        here = f"{where}, row {number}"
        require_kinds(row, _ROW_KINDS, {"budgets"}, here)
        if "schedule" not in row:
            raise StudyError(f"{here} has no schedule")
        numbers = {key: float(row[key]) for key in ("lr", "subset") if isinstance(row.get(key), int | float)}
        budgets = {"budgets": tuple(row["budgets"])} if "budgets" in row else {}
        yield Row(**{**row, **numbers, **budgets})


def _expanded(values: list[Any]) -> Iterator[Any]:
    """The values, those with a range such as {0..11} once for each whole number in it."""
    for value in values:
        span = re.search(r"\{(\d+)\.\.(\d+)\}", value) if isinstance(value, str) else None
        if span is None:
            yield value
        else:
            for number in range(int(span[1]), int(span[2]) + 1):
                yield f"{value[: span.start()]}{number}{value[span.end() :]}"


def require_kinds(found: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], lists: set[str], where: str) -> None:
    """Refuse keys that are unknown, and values of another kind; those of `lists` are lists of that kind.

    Raises:
        StudyError: which says what there may be.
    """
    for key, value in found.items():
        if key not in kinds:
            raise StudyError(f"{where}: '{key}' is unknown{nearest(key, kinds) or ';'} it may have {', '.join(kinds)}")
        many = isinstance(value, list)
        if key in lists and not many:
            raise StudyError(f"{where}: {key} is a list, and is {value!r}")
        if many and key not in lists and key != "seeds":
            raise StudyError(f"{where}: {key} is one value, and is the list {value!r}")
        for item in value if many and kinds[key] != (list,) else [value]:
            if not isinstance(item, kinds[key]) or (isinstance(item, bool) and bool not in kinds[key]):
                kind = " or ".join(k.__name__ for k in kinds[key])
                raise StudyError(f"{where}: {key} has {item!r}, which is no {kind}")
