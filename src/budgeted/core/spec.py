"""The registry: text or dict to schedule, and back.

linear    poly(0.8)    exp.97    step-d2    step(2/3, 8/9)    sgdr-r1    exp.97 over 200ep
warmup(500 steps, cosine(eta=0.1))    join(const, 0.8, linear)    cooldown(const, 0.3, linear)
with(linear, weight_decay=cosine)    refined:runs/digits-0123456789
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .budget import Budget
from .compose import Cooldown, Floor, Join, Over, Repeat, Warmup, With
from .convert import Sampled
from .errors import BudgetedError, ScheduleError
from .schedule import (
    HTD,
    REX,
    SGDR,
    WSD,
    Argument,
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
from .text import NUMBER, nearest

_CLASSES: dict[str, type[Schedule] | type[Plateau]] = {
    kind.name: kind
    for kind in (
        Const, Linear, Poly, Cosine, HTD, Step, Exp, SGDR, OneCycle, WSD, InverseSqrt, REX, Points, Plateau,
        Warmup, Join, Cooldown, Floor, Repeat, With, Sampled,
    )
}  # fmt: skip

PAPER = ("const", "exp.95", "exp.97", "exp.99", "step-d1", "step-d2", "step-d3", "htd", "cosine", "poly", "linear",
         "sgdr", "sgdr-r1", "sgdr-r2", "plateau")  # fmt: skip
BEYOND = ("one-cycle", "wsd", "wsd(shape=1-sqrt)", "inverse-sqrt", "rex")
"""The names that stand for a schedule without further arguments: the paper's, and those beyond it."""


def schedule(given: Schedule | Plateau | str | Mapping[str, Any]) -> Schedule | Plateau:
    """A schedule from its text or its dict.

    Args:
        given: text such as `step(2/3, 8/9)`, a dict such as `{"name": "poly", "power": 0.9}` whose `arguments` are
            the positional ones, or a schedule, which comes back as it is.

    Raises:
        ScheduleError: with what was given, what is known, and the nearest known name.

    >>> schedule("exp.97") == schedule({"name": "exp", "arguments": [0.97]})
    True
    """
    if isinstance(given, Schedule | Plateau):
        return given
    if isinstance(given, str):
        return _parse(given.strip(), f"schedule '{given}'")
    if isinstance(given, Mapping) and "name" in given:
        named = {key: _from_plain(value) for key, value in given.items() if key not in ("name", "arguments", "over")}
        where = f"schedule '{dict(given)}'"
        built = _build(str(given["name"]), [_from_plain(value) for value in given.get("arguments", ())], named, where)
        return _over(built, str(given["over"]), where) if "over" in given else built
    raise ScheduleError(f"a schedule is text such as 'linear', or a dict with a name, not {given!r}")


def schedule_dict(value: Schedule | Plateau) -> dict[str, Any]:
    """The dict that reads back as an equal schedule; only numbers, words, lists and dicts in it.

    >>> schedule_dict(Poly(0.8))
    {'name': 'poly', 'power': 0.8}
    """
    if isinstance(value, Over):
        return {**schedule_dict(value.inner), "over": str(value.horizon)}
    positional, named = value.arguments()
    spec: dict[str, Any] = {"name": value.name}
    if positional:
        spec["arguments"] = [_to_plain(item) for item in positional]
    return spec | {key: _to_plain(item) for key, item in named.items()}


def _to_plain(value: Argument) -> Any:
    if isinstance(value, Schedule):
        return schedule_dict(value)
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value


def _from_plain(value: Any) -> Argument:
    if isinstance(value, Mapping):
        return schedule(value)
    return tuple(_from_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _parse(text: str, where: str) -> Schedule | Plateau:
    if text.startswith("refined:"):
        from .refine import of_run  # which reads run folders, as nothing else here does

        return of_run(Path(text.removeprefix("refined:").strip()))
    if text.startswith("refined("):
        raise ScheduleError(
            f"{where} is refined from another run's gradient norms, so it is known where runs are: in `budgeted train` and "
            "`budgeted study`; elsewhere name the run, as in refined:runs/NAME"
        )
    if over := re.fullmatch(r"(.*\S)\s+over\s+([^()]+)", text, re.IGNORECASE | re.DOTALL):
        return _over(_parse(over[1], where), over[2], where)
    return _build(*read_call(text, where), where)


def read_call(
    text: str, where: str, examples: tuple[str, str] = ("linear", "poly(0.9)")
) -> tuple[str, list[Argument], dict[str, Argument]]:
    """The name, the positional and the named arguments of `name(1/3, other, key=2)`.

    Args:
        text: a name, alone or with arguments between parentheses; numbers, words, pairs and schedules are read.
        where: what an error begins with, for instance `schedule 'poly(0.9'`.
        examples: a name, and one with arguments, that the error shows where the text is neither.

    Raises:
        ScheduleError: for parentheses that do not match, a missing argument, a division by zero.

    >>> read_call("step(2/4, gamma=0.2)", "schedule 'step(2/4, gamma=0.2)'")
    ('step', [0.5], {'gamma': 0.2})
    """
    match = re.fullmatch(r"([A-Za-z][\w.-]*)\s*(?:\((.*)\))?", text, re.DOTALL)
    if not match:
        raise ScheduleError(
            f"{where} is not understood; write a name such as {examples[0]}, or one with arguments such as {examples[1]}"
        )
    args: list[Argument] = []
    named: dict[str, Argument] = {}
    for part in _split(match[2] or "", where):
        key = re.match(r"([A-Za-z_]\w*)\s*=(.*)", part, re.DOTALL)
        if key:
            named[key[1]] = _argument(key[2].strip(), where)
        elif named:
            raise ScheduleError(f"{where}: '{part}' stands after a named argument; put it first")
        else:
            args.append(_argument(part, where))
    return match[1], args, named


def _split(inside: str, where: str) -> list[str]:
    parts, depth = [""], 0
    for character in inside:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        raise ScheduleError(f"{where}: the parentheses do not match")
    parts = [part.strip() for part in parts]
    if parts == [""]:
        return []
    if "" in parts:
        raise ScheduleError(f"{where}: an argument is missing beside a comma")
    return parts


def _argument(text: str, where: str) -> Argument:
    number = re.fullmatch(rf"[+-]?(?:{NUMBER}|inf|nan)(?:/[0-9]+)?", text, re.IGNORECASE)
    if number:
        if "/" in text:
            above, below = text.split("/")
            if not int(below):
                raise ScheduleError(f"{where}: '{text}' divides by zero")
            return _number(above) / int(below)
        return _number(text)
    if ":" in text and "(" not in text:
        return tuple(_argument(part.strip(), where) for part in text.split(":"))
    name = re.match(r"[A-Za-z][\w.-]*", text)
    if name and (name[0].lower() in _CLASSES or _alias(name[0].lower()) or "(" in text):
        return _parse(text, where)
    return text


def _number(text: str) -> float:
    return float(text.replace("_", ""))


def _alias(name: str) -> Schedule | None:
    if drops := re.fullmatch(r"step-d([1-9][0-9]*)", name):
        return Step.even(int(drops[1]))
    if gamma := re.fullmatch(r"exp(\.[0-9]+)", name):
        return Exp(float(gamma[1]))
    if restarts := re.fullmatch(r"sgdr-r([1-9][0-9]*)", name):
        return Repeat(Cosine(), int(restarts[1]) + 1)
    return None


def _build(name: str, args: list[Argument], named: dict[str, Argument], where: str) -> Schedule | Plateau:
    key = name.lower().replace("_", "-")
    if (alias := _alias(key)) is not None:
        if args or named:
            raise ScheduleError(f"{where}: {key} takes no arguments; write it in full, as in step(1/3, 2/3, gamma=0.2)")
        return alias
    kind = _CLASSES.get(key)
    if kind is None:
        known = [*PAPER, *BEYOND, *_CLASSES]
        raise ScheduleError(
            f"{where}: '{name}' is unknown{nearest(key, known) or ';'} the names are {', '.join(dict.fromkeys(known))}"
        )
    for value in (*args, *named.values()):
        if isinstance(value, float) and not math.isfinite(value):
            raise ScheduleError(f"{where}: {value} is not a finite number")
    try:
        return kind.from_arguments(*args, **named) if issubclass(kind, Schedule) else kind(*args, **named)
    except (TypeError, ValueError):
        raise ScheduleError(f"{where}: these are not the arguments of {key}; {_signature(kind)}") from None
    except BudgetedError as error:
        raise ScheduleError(f"{where}: {error}") from None


def _signature(kind: type[Schedule] | type[Plateau]) -> str:
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return f"it has {', '.join(names)}" if names else "it has none"


def _over(inner: Schedule | Plateau, horizon: str, where: str) -> Schedule:
    if isinstance(inner, Plateau):
        raise ScheduleError(f"{where}: drop-on-plateau follows the metric and has no horizon")
    limits = Budget.parse(horizon).limits
    if len(limits) != 1:
        raise ScheduleError(f"{where}: a horizon is one amount, for example exp.97 over 200ep")
    return Over(inner, limits[0])
