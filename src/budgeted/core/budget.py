"""Budgets: immutable sets of limits, parsed from text and printed back.

A limit is what a person writes (`10ep`, `45min`, `until 18:00`, `$20 at $2.5/h`). A run turns each into a
cap, an amount of something that its ledger counts, once it knows its own terms: how long an epoch is, how
many devices it holds, what time it is.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NoReturn, final

from .errors import BudgetError
from .text import NUMBER, exact, format_duration, format_number, nearest, parse_duration

Refuse = Callable[[str], NoReturn]  # raises with the whole budget's text before the reason
EXAMPLES = (
    "10ep, 2000 steps, 5e6 samples, 1e9 tokens, 45min, 1h30m, until 18:00, slurm, 2 gpuh, $20 at $2.5/h, "
    "1e17 FLOP, 300 Wh or 5%"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run knows about itself, and a limit needs to become a cap.

    Args:
        steps_per_epoch: optimizer updates in one epoch; None where it is unknown.
        full: the task's full budget, of which `5%` is a share; None where there is none.
        devices: accelerators that the run holds, for GPU-hours.
        now: the moment at which deadlines are read, with a time zone; None is the present one.
        environ: environment variables, for `slurm`.
    """

    steps_per_epoch: int | None = None
    full: Budget | None = None
    devices: int = 1
    now: dt.datetime | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def moment(self) -> dt.datetime:
        return self.now or dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Cap:
    """An amount of one of the ledger's resources at which a run ends.

    `resource` is steps, samples, tokens, flops, joules, seconds, or clock (seconds of the wall clock since 1970).
    """

    resource: str
    amount: float
    limit: Limit


class Limit(ABC):
    """One limit of a budget."""

    __slots__ = ()

    @abstractmethod
    def __str__(self) -> str:
        """The text that parses to this limit."""

    @abstractmethod
    def caps(self, terms: Terms) -> tuple[Cap, ...]:
        """The amounts that the ledger counts.

        Raises:
            BudgetError: where the terms lack what this limit needs, or leave nothing to spend.
        """

    def scaled(self, share: Fraction) -> Limit:
        """The limit times a share.

        Raises:
            BudgetError: for limits that have no amount, such as a deadline.
        """
        raise BudgetError(f"'{self}' cannot be scaled: a share needs a full budget that is an amount, such as 200ep")


_UNITS: dict[str, tuple[str, Fraction]] = {
    **dict.fromkeys(("step", "steps", "update", "updates", "iteration", "iterations", "iter", "iters", "it"),
                    ("steps", Fraction(1))),
    **dict.fromkeys(("ep", "epoch", "epochs"), ("ep", Fraction(1))),
    **dict.fromkeys(("sample", "samples"), ("samples", Fraction(1))),
    **dict.fromkeys(("token", "tokens"), ("tokens", Fraction(1))),
    **dict.fromkeys(("gpuh", "gpu-h", "gpu-hour", "gpu-hours", "gpu hour", "gpu hours"), ("gpuh", Fraction(1))),
    "j": ("J", Fraction(1)), "kj": ("J", Fraction(10**3)), "wh": ("J", Fraction(3600)),
    "kwh": ("J", Fraction(3600 * 10**3)),
    **{prefix + name: ("FLOP", Fraction(10**power))
       for prefix, power in {"": 0, "k": 3, "m": 6, "g": 9, "t": 12, "p": 15, "e": 18, "z": 21}.items()
       for name in ("flop", "flops")},
    "%": ("%", Fraction(1)),
}  # fmt: skip
_RESOURCES = {
    "steps": "steps",
    "samples": "samples",
    "tokens": "tokens",
    "FLOP": "flops",
    "J": "joules",
    "s": "seconds",
}


@final
@dataclass(frozen=True, slots=True)
class Amount(Limit):
    """So much of one unit: steps, ep, samples, tokens, s, gpuh, FLOP, J or % (of the full budget)."""

    amount: float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in {*_RESOURCES, "ep", "gpuh", "%"}:
            raise BudgetError(f"unit '{self.unit}' is unknown; write for example {EXAMPLES}")
        if not (math.isfinite(self.amount) and self.amount > 0):
            raise BudgetError(f"budget '{self.amount} {self.unit}': the amount must be positive and finite")
        if self.unit == "steps" and self.amount != int(self.amount):
            raise BudgetError(f"budget '{self}': a step is one whole optimizer update; write a whole number")

    def __str__(self) -> str:
        if self.unit == "s":
            return format_duration(self.amount)
        if self.unit == "J" and exact(self.amount) % 36 == 0:
            return f"{format_number(float(exact(self.amount) / 3600))} Wh"
        gap = "" if self.unit in ("ep", "%") else " "
        return f"{format_number(self.amount)}{gap}{self.unit}"

    def caps(self, terms: Terms) -> tuple[Cap, ...]:
        if self.unit == "%":
            if terms.full is None:
                raise BudgetError(f"budget '{self}': there is no full budget to take a share of; pass full='10ep', say")
            scaled = terms.full.scaled(exact(self.amount) / 100)
            return tuple(cap for limit in scaled.limits for cap in limit.caps(terms))
        if self.unit == "ep":
            return (Cap("steps", self._whole_steps(terms), self),)
        if self.unit == "gpuh":
            return (Cap("seconds", float(exact(self.amount) * 3600 / terms.devices), self),)
        return (Cap(_RESOURCES[self.unit], self.amount, self),)

    def _whole_steps(self, terms: Terms) -> float:
        if terms.steps_per_epoch is None:
            raise BudgetError(f"budget '{self}': the length of an epoch is unknown; pass steps_per_epoch=len(loader)")
        steps = exact(self.amount) * terms.steps_per_epoch
        if steps < 1:
            raise BudgetError(
                f"budget '{self}' comes to {float(steps):.3g} of an update at {terms.steps_per_epoch} updates an epoch; "
                "the least is one"
            )
        return float(steps.numerator // steps.denominator)

    def scaled(self, share: Fraction) -> Limit:
        if self.unit == "%":
            return Limit.scaled(self, share)  # refused: a share of a share would look for its full budget in itself
        amount = exact(self.amount) * share
        if self.unit == "steps":
            amount = Fraction(amount.numerator // amount.denominator)
            if amount < 1:
                raise BudgetError(f"{format_number(float(share * 100))}% of '{self}' is less than one update")
        return Amount(float(amount), self.unit)


_SIGNS = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}


@final
@dataclass(frozen=True, slots=True)
class Money(Limit):
    """So much money at a price by the hour: hours = amount / price. The currency is a label, never converted."""

    amount: float
    price: float
    currency: str = "USD"

    def __post_init__(self) -> None:
        for what, value in (("amount", self.amount), ("price", self.price)):
            if not (math.isfinite(value) and value > 0):
                raise BudgetError(f"a budget in money: the {what} must be positive and finite, and is {value}")

    def __str__(self) -> str:
        signs = {name: sign for sign, name in _SIGNS.items()}
        if sign := signs.get(self.currency):
            return f"{sign}{format_number(self.amount)} at {sign}{format_number(self.price)}/h"
        return f"{format_number(self.amount)} {self.currency} at {format_number(self.price)} {self.currency}/h"

    def caps(self, terms: Terms) -> tuple[Cap, ...]:
        return (Cap("seconds", float(exact(self.amount) / exact(self.price) * 3600), self),)

    def scaled(self, share: Fraction) -> Limit:
        return Money(float(exact(self.amount) * share), self.price, self.currency)


@final
@dataclass(frozen=True, slots=True)
class Deadline(Limit):
    """A moment, or a time of day: the next one to come. Without a zone, the machine's own."""

    when: dt.datetime | dt.time
    zone: str | None = None

    def __post_init__(self) -> None:
        if self.zone is not None:
            _zone(self.zone)
            if self.when.tzinfo is not None:
                raise BudgetError(f"deadline '{self.when.isoformat()} {self.zone}' names two time zones; keep one")

    def __str__(self) -> str:
        text = self.when.isoformat()
        if not self.when.microsecond and not self.when.second and "+" not in text and "-" not in text[11:]:
            text = text.removesuffix(":00")
        return f"until {text.replace('+00:00', 'Z')}" + (f" {self.zone}" if self.zone else "")

    def moment(self, now: dt.datetime) -> dt.datetime:
        """The moment meant, seen from `now` (which carries a time zone)."""
        zone = _zone(self.zone) if self.zone else self.when.tzinfo
        if isinstance(self.when, dt.datetime):
            when = self.when if self.when.tzinfo else self.when.replace(tzinfo=zone)
            return when.astimezone(dt.UTC)
        here = now.astimezone(zone)
        for days in (0, 1):
            day = here.date() + dt.timedelta(days=days)
            # A naive datetime's astimezone() reads the machine's zone on that very day, summer time included.
            moment = dt.datetime.combine(day, self.when, tzinfo=zone).astimezone(dt.UTC)
            if moment > now:
                return moment
        raise AssertionError("a time of day comes again within a day")

    def caps(self, terms: Terms) -> tuple[Cap, ...]:
        now = terms.moment()
        moment = self.moment(now)
        if moment <= now:
            late = format_duration(round((now - moment).total_seconds()))
            raise BudgetError(f"budget '{self}': that moment passed {late} ago; give a later one")
        return (Cap("clock", moment.timestamp(), self),)


def _zone(name: str) -> dt.tzinfo:
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BudgetError(
            f"time zone '{name}' is unknown; write one like Europe/Berlin, or an offset as in 08:00+02:00"
        ) from None


@final
@dataclass(frozen=True, slots=True)
class Slurm(Limit):
    """The rest of the SLURM job, less a margin in seconds."""

    margin: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise BudgetError(f"the margin of a slurm budget must be at least zero seconds, and is {self.margin}")

    def __str__(self) -> str:
        return f"slurm - {format_duration(self.margin)}" if self.margin else "slurm"

    def caps(self, terms: Terms) -> tuple[Cap, ...]:
        text = terms.environ.get("SLURM_JOB_END_TIME")
        if text is None:
            raise BudgetError(
                "budget 'slurm': SLURM_JOB_END_TIME is not set; run inside a SLURM job, or give a time such as 45min"
            )
        try:
            end = float(text)
        except ValueError:
            raise BudgetError(f"budget 'slurm': SLURM_JOB_END_TIME is '{text}', not seconds since 1970") from None
        if end - self.margin <= terms.moment().timestamp():
            raise BudgetError(f"budget '{self}': the job's time, less the margin, is already over")
        return (Cap("clock", end - self.margin, self),)


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """Several limits; the first that is reached ends the run.

    >>> str(Budget.parse("10 epochs or 90 min"))
    '10ep or 1h30min'
    """

    limits: tuple[Limit, ...]

    def __post_init__(self) -> None:
        if not self.limits:
            raise BudgetError(f"an empty budget has no limit; write for example {EXAMPLES}")
        if len({str(limit) for limit in self.limits}) < len(self.limits):
            raise BudgetError(f"budget '{self}' names the same limit twice; keep one")

    def __str__(self) -> str:
        return " or ".join(str(limit) for limit in self.limits)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget from text, such as `45min or 10ep`.

        Raises:
            BudgetError: with what was given, what is allowed, and an example.
        """
        return cls(tuple(_parse_limit(part, text) for part in re.split(r"(?i:(?:^|(?<=\s))or(?=\s|$))", text)))

    @classmethod
    def of(cls, given: Budget | Limit | str | dt.timedelta | dt.datetime) -> Budget:
        """A budget from text, a limit, a `timedelta` or a `datetime`. A bare number has no unit and is refused."""
        match given:
            case Budget():
                return given
            case Limit():
                return cls((given,))
            case str():
                return cls.parse(given)
            case dt.timedelta():
                return cls((Amount(given.total_seconds(), "s"),))
            case dt.datetime():
                return cls((Deadline(given),))
            case int() | float():
                raise BudgetError(
                    f"budget {given}: a number without a unit; write '{given} steps', '{given}ep' or '{given}s'"
                )
        raise BudgetError(
            f"a budget is text such as '45min or 10ep', a timedelta or a datetime, not {type(given).__name__}"
        )

    def caps(self, terms: Terms) -> tuple[Cap, ...]:
        """Each limit as an amount of something that a ledger counts."""
        return tuple(cap for limit in self.limits for cap in limit.caps(terms))

    def scaled(self, share: Fraction | float) -> Budget:
        """Each limit times a share, exact in decimals: 5 % of 20 epochs is one epoch."""
        share = share if isinstance(share, Fraction) else exact(share)
        return Budget(tuple(limit.scaled(share) for limit in self.limits))


def _parse_limit(part: str, whole: str) -> Limit:
    text = part.strip()

    def refuse(why: str) -> NoReturn:
        raise BudgetError(f"budget '{whole}': {why}")

    if not text:
        if not whole.strip():
            refuse(f"it is empty; write for example {EXAMPLES}")
        where = "after" if whole.strip().endswith("or") else "before"
        refuse(f"a limit is missing {where} 'or'; write for example '45min or 10ep'")
    lower = text.lower()
    if lower.startswith("until"):
        return _parse_deadline(text[5:].strip(), refuse)
    if lower.startswith("slurm"):
        return _parse_slurm(lower[5:].strip(), refuse)
    if money := _parse_money(text, refuse):
        return money
    if (seconds := parse_duration(text)) is not None:
        return Amount(seconds, "s") if 0 < seconds < math.inf else refuse("the amount must be positive and finite")
    match = re.fullmatch(rf"([+-]?(?:{NUMBER}|inf|nan))\s*(.*)", text, re.IGNORECASE)
    if not match:
        refuse(f"'{text}' is not a limit; write for example {EXAMPLES}{nearest(text, ['slurm', 'until'])}")
    number, word = match[1].replace("_", ""), match[2].strip().lower()
    if not word:
        refuse(f"'{text}' has no unit; write '{text} steps', '{text}ep' or '{text}s'")
    if re.search(r",|\band\b", word):
        refuse(
            "several limits are joined by 'or', the first that is reached ends the run; write for example '45min or 10ep'"
        )
    if word.startswith(":"):
        refuse(f"write '{text}' with units, for example 1h30min")
    if word not in _UNITS and parse_duration(f"1{word}") is not None:
        refuse(f"the amount must be positive and finite, and is {number}")
    if word not in _UNITS:
        known = [*_UNITS, "s", "min", "h", "d"]
        refuse(f"unit '{match[2].strip()}' is unknown; write for example {EXAMPLES}{nearest(word, known)}")
    unit, size = _UNITS[word]
    if not math.isfinite(float(number)) or float(number) <= 0:
        refuse(f"the amount must be positive and finite, and is {number}")
    try:
        return Amount(float(Fraction(number) * size), unit)
    except OverflowError:
        refuse(f"{number} {word} is too large")
    except BudgetError as error:
        refuse(str(error).partition(": ")[2])


def _parse_deadline(text: str, refuse: Refuse) -> Deadline:
    match = re.fullmatch(r"(\S+(?:[ T]\d\S*)?)(?:\s+([A-Za-z][\w+/-]*))?", text)
    if match:
        for kind in (dt.time, dt.datetime):
            try:
                when = kind.fromisoformat(match[1])
            except ValueError:
                continue
            if kind is dt.datetime and re.fullmatch(r"\d{4}-?\d\d-?\d\d", match[1]):
                refuse(f"'until {text}' is a day without a time; write for example 'until {match[1]}T18:00'")
            try:
                return Deadline(when, match[2])
            except BudgetError as error:
                refuse(str(error))
    return refuse(f"'until {text}' is not a time; write 'until 18:00' or 'until 2026-12-01T08:00Z'")


def _parse_slurm(text: str, refuse: Refuse) -> Slurm:
    if not text:
        return Slurm()
    margin = parse_duration(text[1:].strip()) if text.startswith("-") else None
    return (
        Slurm(margin)
        if margin is not None
        else refuse(f"'slurm {text}' is not understood; write 'slurm' or 'slurm - 5min'")
    )


def _parse_money(text: str, refuse: Refuse) -> Money | None:
    amount, at, price = (part.strip() for part in re.sub(r"\s+at\s+", "\0at\0", text + " ").partition("\0at\0"))
    spent = _money(amount)
    if spent is None:
        return None
    if not at or not (rate := re.fullmatch(r"(.*?)\s*/\s*(?:h|hr|hour)", price)):
        refuse(f"'{text}' needs a price by the hour; write for example '$20 at $2.5/h'")
    cost = _money(rate[1])
    if cost is None:
        refuse(f"'{price}' is not a price by the hour; write for example '$20 at $2.5/h'")
    if cost[1] != spent[1]:
        refuse(f"it is in {spent[1]} and its price in {cost[1]}; write both in one currency")
    try:
        return Money(spent[0], cost[0], spent[1])
    except BudgetError as error:
        refuse(str(error))


def _money(text: str) -> tuple[float, str] | None:
    signed = re.fullmatch(rf"([{''.join(_SIGNS)}])\s*({NUMBER})", text)
    if signed:
        return float(signed[2]), _SIGNS[signed[1]]
    named = re.fullmatch(rf"({NUMBER})\s*([A-Z]{{3}})", text)
    if named is None or named[2].lower() in _UNITS or parse_duration(text) is not None:
        return None  # KWH and MIN are units, not currencies
    return float(named[1]), named[2]
