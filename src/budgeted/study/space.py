"""A search's file: the configurations, as a grid, a list or random draws, and how they are judged.

title = "Widths and rates"
task = "digits"
budget = "100%"                       # the largest
eta = 3                               # the best third of each rung goes on
rungs = 3                             # or smallest = "2ep", the budget that no rung is below
seeds = 1                             # 0; or a list
strategy = "fitted"                   # or "trunk", "truncated"

models = ["conv-net", "mlp"]          # a grid: with optimizers and lrs, each of their combinations
lrs = [0.03, 0.3]

[[configurations]]                    # listed ones
optimizer = "adamw(weight_decay=0.05)"
lr = 0.003

[[draw]]                              # drawn ones; a list is a choice, and {name} stands for what is drawn as that name
count = 10
seed = 0
model = ["conv-net(width={width})"]
width = {whole = [4, 32]}
lr = {log = [0.003, 1.0]}             # or {uniform = [...]}
"""

from __future__ import annotations

import itertools
import math
import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, final

from ..core.errors import StudyError
from ..core.text import format_number, nearest
from .plan import Row
from .read import read_toml, require_kinds

STRATEGIES = ("fitted", "trunk", "truncated")
VALUES = ("final", "best")
_AXES = {"models": "model", "optimizers": "optimizer", "lrs": "lr"}
_OWN = ("title", "task", "budget", "eta", "rungs", "smallest", "strategy", "schedule", "cooldown", "value", "precision")
_KINDS: dict[str, tuple[type, ...]] = {
    "title": (str,), "task": (str,), "budget": (str,), "eta": (int, float), "rungs": (int,), "smallest": (str,),
    "seeds": (int,), "truth_seeds": (int,), "strategy": (str,), "schedule": (str,), "cooldown": (float,), "value": (str,),
    "precision": (str,), "models": (str,), "optimizers": (str,), "lrs": (float, int), "configurations": (dict,), "draw": (dict,),
}  # fmt: skip
_LISTS = {*_AXES, "configurations", "draw", "truth_seeds"}
_CONFIGURATION_KINDS: dict[str, tuple[type, ...]] = {
    "label": (str,), "model": (str,), "optimizer": (str,), "lr": (float, int),
}  # fmt: skip
_RANGES = ("log", "uniform", "whole")
_TEXTS = ("model", "optimizer")
_NAME = re.compile(r"\{(\w+)\}")
_FIGURES = 3  # significant ones of a number that is drawn
_TRIES = 100  # draws for each that is wanted, since what was drawn before does not count


@final
@dataclass(frozen=True, slots=True)
class Configuration:
    """What is searched over: a model, an optimizer and a base rate in place of the task's.

    Args:
        model, optimizer, lr: as in `budgeted train`; None for the task's own.
        label: what it is called; what is named, where none is given.
    """

    model: str | None = None
    optimizer: str | None = None
    lr: float | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.lr, int):
            object.__setattr__(self, "lr", float(self.lr))
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise StudyError(f"a configuration's lr is a positive number, and is {self.lr}")
        if not self.label:
            rate = [] if self.lr is None else [f"lr {format_number(self.lr)}"]
            object.__setattr__(
                self, "label", ", ".join([*filter(None, (self.model, self.optimizer)), *rate]) or "as is"
            )

    def row(self, schedule: str) -> Row:
        """As the row of a study."""
        return Row(schedule, self.label, self.model, self.optimizer, self.lr)


@final
@dataclass(frozen=True, slots=True)
class Search:
    """Configurations, and how the best one is looked for.

    Args:
        name: what its folder is called.
        task: what is trained.
        configurations: at least two.
        budget: the largest, that of the last rung.
        eta: one in so many goes on to the next rung, whose budget is so many times as large; at least 2.
        rungs: how many there are; or
        smallest: the budget below which there is none.
        seeds: of the runs of each configuration, whose median is its figure.
        truth_seeds: of the runs that a comparison holds the strategies against; the same where none are given.
        strategy: `fitted`, `trunk` or `truncated`.
        schedule: of fitted rungs and of the long run that is truncated.
        cooldown: the share of a rung's budget over which a trunk is cooled down.
        value: `final`, the evaluation at the end of a run, or `best`.
        title, precision: as of a study.

    Raises:
        StudyError: for what cannot be searched.
    """

    name: str
    task: str
    configurations: tuple[Configuration, ...]
    budget: str = "100%"
    eta: float = 3
    rungs: int | None = None
    smallest: str | None = None
    seeds: tuple[int, ...] = (0,)
    truth_seeds: tuple[int, ...] = ()
    strategy: str = "fitted"
    schedule: str = "linear"
    cooldown: float = 0.2
    value: str = "final"
    title: str = ""
    precision: str = "float32-channels-last"

    def __post_init__(self) -> None:
        labels = [one.label for one in self.configurations]
        if len(labels) < 2:
            raise StudyError(
                f"{self._where} has {len(labels) or 'no'} configuration{'s' if not labels else ''}, and there is nothing "
                "to choose; give at least two, by models, optimizers and lrs, by [[configurations]] or by [[draw]]"
            )
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise StudyError(f"{self._where} has '{twice}' twice among its configurations; keep one, or label them")
        if not 2 <= self.eta < math.inf:
            raise StudyError(f"{self._where}: eta is a number from 2, since one in eta goes on, and is {self.eta}")
        if self.rungs is not None and self.smallest is not None:
            raise StudyError(f"{self._where} has both rungs and smallest; keep one")
        if self.rungs is not None and self.rungs < 2:
            raise StudyError(f"{self._where}: rungs is a whole number from 2, and is {self.rungs}")
        if not 0 < self.cooldown < 1:
            raise StudyError(
                f"{self._where}: cooldown is a share of a rung above 0 and below 1, and is {self.cooldown}"
            )
        for what, word, known in (("strategy", self.strategy, STRATEGIES), ("value", self.value, VALUES)):
            if word not in known:
                raise StudyError(
                    f"{self._where}: {what} '{word}' is unknown{nearest(word, known) or ';'} it is one of {', '.join(known)}"
                )

    @property
    def _where(self) -> str:
        return f"search '{self.name}'"


def built_in() -> dict[str, str]:
    """The searches of the package: their names and titles."""
    files = sorted(resources.files(__package__).joinpath("spaces").iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".toml"): str(tomllib.loads(file.read_text(encoding="utf-8"))["title"])
        for file in files
        if file.name.endswith(".toml")
    }


def read_search(given: str) -> Search:
    """A search of the package by its name, or one from a TOML file.

    Raises:
        StudyError: for one that is unknown, or a file that cannot be read or does not describe one.
    """
    names = built_in()
    path: Any = Path(given)
    if given in names:
        path = resources.files(__package__).joinpath("spaces", f"{given}.toml")
    elif path.suffix != ".toml":
        raise StudyError(
            f"search '{given}' is unknown{nearest(given, names) or ';'} they are {', '.join(names)}, or your own as FILE.toml"
        )
    return search_from(read_toml(path, f"search '{given}'"), given if given in names else path.stem)


def search_from(found: Mapping[str, Any], name: str) -> Search:
    """A search from what a TOML file holds, or from a mapping of the same shape.

    Raises:
        StudyError: for unknown keys, wrong kinds, ranges that hold nothing, and what `Search` refuses.
    """
    where = f"search '{name}'"
    require_kinds(found, _KINDS, _LISTS, where)
    if "task" not in found:
        raise StudyError(f'{where} has no task; name one, such as task = "digits"')
    seeds = found.get("seeds", 1)
    return Search(
        name,
        configurations=tuple(_configurations(found, where)),
        seeds=tuple(seeds) if isinstance(seeds, list) else tuple(range(seeds)),
        truth_seeds=tuple(found.get("truth_seeds", ())),
        **{key: found[key] for key in _OWN if key in found},
    )


def _configurations(found: Mapping[str, Any], where: str) -> Iterator[Configuration]:
    axes = {axis: found[axis] for axis in _AXES if axis in found}
    if axes:
        for values in itertools.product(*axes.values()):
            yield Configuration(**{_AXES[axis]: value for axis, value in zip(axes, values, strict=True)})
    for number, listed in enumerate(found.get("configurations", ()), 1):
        require_kinds(listed, _CONFIGURATION_KINDS, set(), f"{where}, configuration {number}")
        yield Configuration(**listed)
    for number, table in enumerate(found.get("draw", ()), 1):
        yield from _drawn(table, f"{where}, draw {number}", number)


def _drawn(table: Mapping[str, Any], where: str, number: int) -> Iterator[Configuration]:
    """So many different configurations; each name is drawn by itself, so that one more changes none of the others."""
    count, seed = table.get("count"), table.get("seed", 0)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise StudyError(f"{where}: count is how many are drawn, a whole number from 1, and is {count!r}")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise StudyError(f"{where}: seed is a whole number, and is {seed!r}")
    sources = {name: _source(name, given, where) for name, given in table.items() if name not in ("count", "seed")}
    _require_used(sources, where)
    randoms = {name: random.Random(f"{seed}/{number}/{name}") for name in sources}
    found: dict[Configuration, None] = {}
    for _ in range(_TRIES * count):
        values = {name: _draw(source, randoms[name]) for name, source in sources.items()}
        found[_filled(values, where)] = None
        if len(found) == count:
            break
    else:
        raise StudyError(
            f"{where}: count is {count}, and only {len(found)} different ones were drawn; ask for fewer, or widen what is drawn from"
        )
    yield from found


_Source = list[Any] | tuple[str, float, float]  # a choice, or a kind of range with its ends


def _source(name: str, given: Any, where: str) -> _Source:
    """What a name is drawn from."""
    if isinstance(given, dict):
        return _range(name, given, where)
    choices = given if isinstance(given, list) else [given]
    if not choices or not all(isinstance(c, str | int | float) and not isinstance(c, bool) for c in choices):
        raise StudyError(
            f"{where}: {name} is a list of texts or numbers, or a range such as {{log = [0.003, 1.0]}}, and is {given!r}"
        )
    return choices


def _range(name: str, given: Mapping[str, Any], where: str) -> _Source:
    kind, ends = next(iter(given.items()), ("", None))
    if len(given) != 1 or kind not in _RANGES:
        raise StudyError(f"{where}: {name} is a range of one of {', '.join(_RANGES)}, and is {dict(given)!r}")
    if not isinstance(ends, list) or len(ends) != 2 or not all(type(end) in (int, float) for end in ends):
        raise StudyError(f"{where}: {name} = {{{kind} = ...}} has two ends, such as [0.003, 1.0], and is {ends!r}")
    low, high = ends
    if not -math.inf < low < high < math.inf:
        raise StudyError(f"{where}: {name} = {{{kind} = {ends}}} has no room: the first end is below the second one")
    if kind == "log" and low <= 0:
        raise StudyError(f"{where}: {name} = {{log = {ends}}} begins at {low}; a logarithmic range begins above 0")
    if kind == "whole" and not (isinstance(low, int) and isinstance(high, int)):
        raise StudyError(f"{where}: {name} = {{whole = {ends}}} has ends that are no whole numbers")
    return kind, low, high


def _draw(source: _Source, generator: random.Random) -> str | float:
    share = generator.random()  # the one draw that is the same in every version of Python
    if isinstance(source, list):
        return source[int(share * len(source))]  # type: ignore[no-any-return]
    kind, low, high = source
    if kind == "whole":
        return int(low) + int(share * (high - low + 1))
    value = low * (high / low) ** share if kind == "log" else low + (high - low) * share
    return min(high, max(low, float(f"{value:.{_FIGURES}g}")))


def _filled(values: Mapping[str, Any], where: str) -> Configuration:
    """The configuration with what was drawn in place of its {names}."""
    texts = {name: value if isinstance(value, str) else format_number(value) for name, value in values.items()}

    def fill(match: re.Match[str]) -> str:
        if match[1] not in texts or match[1] in _TEXTS:
            raise StudyError(f"{where}: {match[0]} stands for nothing that is drawn; give {match[1]} a range or a list")
        return texts[match[1]]

    if isinstance(lr := values.get("lr"), str):
        raise StudyError(f"{where}: lr is drawn from numbers, and one is '{lr}'")
    return Configuration(**{key: _NAME.sub(fill, texts[key]) for key in _TEXTS if key in texts}, lr=lr)


def _require_used(sources: Mapping[str, _Source], where: str) -> None:
    """Refuse what is drawn for nothing: most likely its name is misspelt."""
    choices = [choice for key in _TEXTS for choice in sources.get(key, ()) if isinstance(choice, str)]
    used = {*_TEXTS, "lr", *(name for choice in choices for name in _NAME.findall(choice))}
    for name in sources:
        if name not in used:
            raise StudyError(
                f"{where}: '{name}' is drawn and used nowhere{nearest(name, used)}; it may be model, optimizer, lr, or stand "
                f"as {{{name}}} in a model or an optimizer"
            )
