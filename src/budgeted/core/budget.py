"""Budgets: immutable sets of limits, parsed from text and printed back.

A limit is what a person writes (`10ep`, `45min`, `until 18:00`, `$20 at $2.5/h`). A run turns each into a
cap, an amount of something that its ledger counts, once it knows its own terms: how long an epoch is, how
many devices it holds, what time it is.
"""

from __future__ import annotations

import datetime as dt
import difflib
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import final

from .errors import BudgetError
from .slurm import job_end
from .text import NUMBER, exact, format_duration, format_number, format_seconds, likely, parse_duration

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

    def plus(self, more: Limit, devices: int, now: dt.datetime) -> Limit | None:
        """The limit with another added, as in `Budget.plus`; None where the two do not fit."""
        return None


_UNITS: dict[str, tuple[str, Fraction]] = {
    **dict.fromkeys(("step", "steps", "update", "updates", "iteration", "iterations", "iter", "iters", "it"),
                    ("steps", Fraction(1))),
    **dict.fromkeys(("ep", "epoch", "epochs"), ("ep", Fraction(1))),
    **dict.fromkeys(("sample", "samples"), ("samples", Fraction(1))),
    **dict.fromkeys(("token", "tokens"), ("tokens", Fraction(1))),
    **dict.fromkeys(("gpuh", "gpu-h", "gpu-hour", "gpu-hours", "gpu hour", "gpu hours"), ("gpuh", Fraction(1))),
    **dict.fromkeys(("j", "joule", "joules"), ("J", Fraction(1))), "kj": ("J", Fraction(10**3)),
    **dict.fromkeys(("wh", "watt-hour", "watt-hours", "watt hour", "watt hours"), ("J", Fraction(3600))),
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
            whole = format_number(math.ceil(self.amount))
            raise BudgetError(
                f"budget '{self}': a step is one whole optimizer update; write a whole number, such as '{whole} steps'"
            )

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

    def plus(self, more: Limit, devices: int, now: dt.datetime) -> Limit | None:
        match more:
            case Amount(amount, unit) if unit == self.unit:
                return Amount(_sum(self.amount, exact(amount)), unit)
            case Amount(seconds, "s") if self.unit == "gpuh":
                return Amount(_sum(self.amount, exact(seconds) / 3600 * devices), "gpuh")
        return None


def _sum(amount: float, more: Fraction) -> float:
    """Exact in decimals; infinite where it is too large for a number, which no limit takes."""
    try:
        return float(exact(amount) + more)
    except OverflowError:
        return math.inf


_INSTEAD = "; add what one of its limits counts, or give the whole new budget (--to)"
_SIGNS = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}


@final
@dataclass(frozen=True, slots=True)
class Money(Limit):
    """So much money at a price by the hour: hours = amount / price. The currency is a label, never converted."""

    amount: float
    price: float
    currency: str = "USD"

    def __post_init__(self) -> None:
        for what, value, instead in (
            ("amount of money", self.amount, ""),
            ("price", self.price, "; where nothing is paid, give a time such as 45min"),
        ):
            if not (math.isfinite(value) and value > 0):
                raise BudgetError(f"the {what} must be positive and finite, and is {value:g}{instead}")

    def __str__(self) -> str:
        signs = {name: sign for sign, name in _SIGNS.items()}
        if sign := signs.get(self.currency):
            return f"{sign}{format_number(self.amount)} at {sign}{format_number(self.price)}/h"
        return f"{format_number(self.amount)} {self.currency} at {format_number(self.price)} {self.currency}/h"

    def caps(self, terms: Terms) -> tuple[Cap, ...]:
        return (Cap("seconds", float(exact(self.amount) / exact(self.price) * 3600), self),)

    def scaled(self, share: Fraction) -> Limit:
        return Money(float(exact(self.amount) * share), self.price, self.currency)

    def plus(self, more: Limit, devices: int, now: dt.datetime) -> Limit | None:
        match more:
            case Money(amount, self.price, self.currency):
                return Money(_sum(self.amount, exact(amount)), self.price, self.currency)
            case Amount(seconds, "s"):
                return Money(_sum(self.amount, exact(seconds) / 3600 * exact(self.price)), self.price, self.currency)
        return None


_CENTURY = 100 * 365 * 86400.0


@final
@dataclass(frozen=True, slots=True)
class Deadline(Limit):
    """A moment, or a time of day: the next one to come. Without a zone, the machine's own.

    Where the clocks change, PEP 495 is followed with fold=0: a time that comes twice means the first, and one that is
    skipped is counted with the offset before the change, so that 02:30 means 03:30 in summer time. The second of two
    is written with its offset.

    >>> str(Deadline(dt.datetime(2027, 10, 31, 2, 30), "Europe/Berlin").moment(dt.datetime.now(dt.UTC)))
    '2027-10-31 00:30:00+00:00'
    """

    when: dt.datetime | dt.time
    zone: str | None = None

    def __post_init__(self) -> None:
        text = self.when.isoformat()
        if self.zone is not None:
            _zone(self.zone)
            if self.when.tzinfo is not None:
                raise BudgetError(f"deadline '{text} {self.zone}' names two time zones; keep one")
        if self.when.tzinfo is not None and self.when.utcoffset() is None:
            raise BudgetError(f"deadline '{text}': give the zone of a time of day by name, as in Deadline(when, zone)")
        if self.when.tzinfo is None and self.when.fold:
            raise BudgetError(f"deadline '{text}' with fold=1 has no text; give the offset, as in {text}+01:00")

    def __str__(self) -> str:
        text = self.when.isoformat()
        if not self.when.microsecond and not self.when.second and "+" not in text and "-" not in text[11:]:
            text = text.removesuffix(":00")
        return f"until {text.replace('+00:00', 'Z')}" + (f" {self.zone}" if self.zone else "")

    def moment(self, now: dt.datetime) -> dt.datetime:
        """The moment meant, seen from `now` (which carries a time zone)."""
        return self._utc(self._local(now))

    def oddity(self, now: dt.datetime) -> str | None:
        """How the deadline is understood where the clocks change at that time; None where they do not."""
        local = self._local(now)
        day, clock = f"{local:%Y-%m-%d}", f"{local:%H:%M}"
        first, second = (self._utc(local.replace(fold=fold)) for fold in (0, 1))
        if first < second:
            return f"{clock} comes twice on {day}: the first is meant; write an offset for the second"
        if first > second:
            meant = first.astimezone(local.tzinfo)
            return f"{clock} is skipped on {day}, when the clocks go forward: {meant:%H:%M} is meant"
        return None

    def _utc(self, local: dt.datetime) -> dt.datetime:
        try:
            moment = local.astimezone(dt.UTC)
            if 1 < moment.year < 9999:  # the calendar of Python ends with these years, in every zone
                return moment
        except OverflowError:
            pass
        raise BudgetError(f"deadline '{self}' is too far from now to be one")

    def _local(self, now: dt.datetime) -> dt.datetime:
        """The same in the deadline's zone; naive where that is the machine's own."""
        zone = _zone(self.zone) if self.zone else self.when.tzinfo
        if isinstance(self.when, dt.datetime):
            return self.when if self.when.tzinfo else self.when.replace(tzinfo=zone)
        here = now.astimezone(zone)
        for days in (0, 1):
            # A naive datetime's astimezone() reads the machine's zone on that very day, summer time included.
            local = dt.datetime.combine(here.date() + dt.timedelta(days=days), self.when, tzinfo=zone)
            if local.astimezone(dt.UTC) > now:
                return local
        raise AssertionError("a time of day comes again within a day")

    def caps(self, terms: Terms) -> tuple[Cap, ...]:
        now = terms.moment()
        moment = self.moment(now)
        if moment <= now:
            late = format_duration(round((now - moment).total_seconds()))
            raise BudgetError(f"budget '{self}': that moment passed {late} ago; give a later one")
        return (Cap("clock", moment.timestamp(), self),)

    def plus(self, more: Limit, devices: int, now: dt.datetime) -> Limit | None:
        match more:
            case Amount(seconds, "s"):
                local = self._local(now)
                if seconds > _CENTURY:
                    raise BudgetError(f"{more} more than '{self}' is too far from now to be a deadline; add less")
                later = (self._utc(local) + dt.timedelta(seconds=seconds)).astimezone(local.tzinfo)
                return Deadline(later.replace(tzinfo=dt.timezone(later.utcoffset() or dt.timedelta())))
        return None


def _zone(name: str) -> dt.tzinfo:
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        cities = {zone.rpartition("/")[2].lower(): zone for zone in sorted(zoneinfo.available_timezones())}
        close = difflib.get_close_matches(name.rpartition("/")[2].lower(), cities, n=1, cutoff=0.8)
        example = cities[close[0]] if close else "Europe/Berlin"
        raise BudgetError(
            f"time zone '{name}' is unknown; write one like {example}, or an offset as in 08:00+02:00"
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
        try:
            end = job_end(terms.environ)
        except BudgetError as error:
            raise BudgetError(f"budget '{self}': {error}") from None
        left = end - terms.moment().timestamp()
        if left <= 0:
            raise BudgetError(
                f"budget '{self}': the job's end passed {format_seconds(-left)} ago, by SLURM_JOB_END_TIME or the "
                "scheduler; where it was put off since the job began, unset that variable, or give a time such as 45min"
            )
        if left <= self.margin:
            raise BudgetError(
                f"budget '{self}': the job ends in {format_seconds(left)}, and the margin leaves nothing of that; "
                "give a shorter one"
            )
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
        return cls(tuple(_parse_limit(part, text) for part in _parts(text)))

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

    def plus(
        self, more: Budget | Limit | str | dt.timedelta, *, devices: int = 1, now: dt.datetime | None = None
    ) -> Budget:
        """The budget with more added to every limit that it fits; the others stay as they are.

        Amounts of one unit add up. A time is added to money at its price, to GPU-hours times `devices`, and to a
        deadline, which becomes a moment with its offset. Money is added at the same price, or without one.

        Args:
            more: text such as `1h`, `5ep` or `$5`; of several limits, each is added.
            devices: accelerators that the run holds.
            now: the moment from which a time of day is the next one, with a time zone: when the run began. None is the
                present one.

        Raises:
            BudgetError: for what fits no limit, and for less than nothing.

        >>> budget = Budget.parse("45min or 10ep or $20 at $2.5/h")
        >>> str(budget.plus("1h")), str(budget.plus("$5 or 2ep"))
        ('1h45min or 10ep or $22.5 at $2.5/h', '45min or 12ep or $25 at $2.5/h')
        """
        budget, now = self, now or dt.datetime.now(dt.UTC)
        for addition in self._additions(more):
            moved = [limit.plus(addition, devices, now) for limit in budget.limits]
            if not any(moved):
                raise BudgetError(f"budget '{self}': {self._misfit(addition)}")
            limits = [new or old for new, old in zip(moved, budget.limits, strict=True)]
            budget = Budget(tuple({str(limit): limit for limit in limits}.values()))  # two of one moment become one
        return budget

    def _additions(self, more: Budget | Limit | str | dt.timedelta) -> Iterator[Limit]:
        if not isinstance(more, str):
            yield from Budget.of(more).limits
            return
        for part in _parts(more):
            if part.startswith("-"):
                raise BudgetError(
                    f"'{part}' is no addition; to end earlier, `budgeted stop RUN --in 5min`, or give the whole new "
                    "budget (--to 30min)"
                )
            if (cash := _money(part)) is None:
                yield _parse_limit(part, more)
                continue
            amount, currency = cash
            own = [each for each in self.limits if isinstance(each, Money) and each.currency == currency]
            if not own:
                raise BudgetError(f"budget '{self}' has no {currency} that '{part}' could be added to{_INSTEAD}")
            yield from (Money(amount, price, currency) for price in {each.price for each in own})

    def _misfit(self, addition: Limit) -> str:
        timed = isinstance(addition, Amount) and addition.unit == "s"
        if timed and any(isinstance(limit, Slurm) for limit in self.limits):
            return (
                f"{addition} cannot be added, as SLURM itself sets when the job ends; `scontrol update JobId=ID "
                "TimeLimit=+60` puts it off, then give the new end as a deadline (--to 'until 18:00')"
            )
        if isinstance(addition, Deadline | Slurm):
            return f"'{addition}' is no amount to add; give it as the whole new budget (--to)"
        return f"'{addition}' fits none of its limits{_INSTEAD}"


def _parts(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?i:(?:^|(?<=\s))or(?=\s|$))", text)]


def _parse_limit(text: str, whole: str) -> Limit:
    if not whole.strip():
        raise BudgetError(f"budget '{whole}': it is empty; write for example {EXAMPLES}")
    if not text:
        where = "after" if whole.strip().endswith("or") else "before"
        raise BudgetError(f"budget '{whole}': a limit is missing {where} 'or'; write for example '45min or 10ep'")
    try:
        return _read(text)
    except BudgetError as error:
        raise BudgetError(f"budget '{whole}': {error}{_guess(text)}") from None


def _guess(text: str) -> str:
    """`; did you mean '5000 steps'?` where what was probably meant is a budget, else nothing."""
    for meant in likely(text, [*_UNITS, "s", "min", "h", "d"]):
        try:
            limits = [_read(part) for part in _parts(meant)]
        except BudgetError:
            continue
        return f"; did you mean '{' or '.join(map(str, limits))}'?"
    return ""


def _read(text: str) -> Limit:
    """One limit; the errors say why it is none."""
    lower = text.lower()
    if lower.startswith("until"):
        return _read_deadline(text[5:].strip())
    if lower.startswith("slurm"):
        return _read_slurm(text[5:].strip())
    if money := _read_money(text):
        return money
    if (seconds := parse_duration(text)) is not None:
        if not 0 < seconds < math.inf:
            raise BudgetError(f"the amount must be positive and finite, and '{text}' comes to {seconds:g} s")
        return Amount(seconds, "s")
    match = re.fullmatch(rf"([+-]?(?:{NUMBER}|inf|nan))\s*(.*)", text, re.IGNORECASE)
    if not match:
        raise BudgetError(f"'{text}' is not a limit; write for example {EXAMPLES}")
    number, word = match[1].replace("_", ""), match[2].strip().lower()
    if not word:
        raise BudgetError(f"'{text}' has no unit; write '{text} steps', '{text}ep' or '{text}s'")
    if word.startswith(":"):
        raise BudgetError(f"write '{text}' with units, for example 1h30min, or 'until {text}' for a time of day")
    if re.match(r",\d", word):
        raise BudgetError(f"'{text}' has a comma in a number; write 1000 and 2.5")
    if re.search(r"[,;|&]|\band\b", word):
        raise BudgetError(
            "several limits are joined by 'or', the first that is reached ends the run; write for example '45min or 10ep'"
        )
    timed = word not in _UNITS and parse_duration(f"1{word}") is not None  # with a sign, or it would have been read
    if word not in _UNITS and not timed:
        raise BudgetError(f"unit '{match[2].strip()}' is unknown; write for example {EXAMPLES}")
    if timed or not math.isfinite(float(number)) or float(number) <= 0:
        raise BudgetError(f"the amount must be positive and finite, and is {number}")
    unit, size = _UNITS[word]
    try:
        return Amount(float(Fraction(number) * size), unit)
    except OverflowError:
        raise BudgetError(f"{number} {word} is too large") from None
    except BudgetError as error:
        raise BudgetError(str(error).partition(": ")[2]) from None


def _read_deadline(text: str) -> Deadline:
    write = "write 'until 18:00' or 'until 2026-12-01T08:00Z'"
    if re.match(r"[a-z]", text, re.IGNORECASE):
        raise BudgetError(
            f"'until {text}' is not a time: a day is given as a date, and a time of day means the next one; {write}"
        )
    match = re.fullmatch(r"(\S+(?:[ T]\d\S*)?)(?:\s+([A-Za-z][\w+/-]*))?", text)
    if not match or re.search(r"(?<!:\d\d:\d\d)[.,]", match[1]):  # to Python 18.30 is 18:00:00.3
        raise BudgetError(f"'until {text}' is not a time; {write}")
    if re.fullmatch(r"[0-9]{4}|[0-9]{6}", match[1]):
        raise BudgetError(f"'until {text}' may be a date or a time; {write}")
    reason = ""
    for kind in (dt.date, dt.time, dt.datetime):
        try:
            when = kind.fromisoformat(match[1])
        except ValueError as error:  # Python says what is wrong with 25:00, and nothing of what is no time at all
            reason = reason or ("" if "isoformat" in str(error) else f" ({error})")
            continue
        if isinstance(when, dt.time | dt.datetime):
            return Deadline(when, match[2])
        raise BudgetError(f"'until {text}' is a day without a time; write for example 'until {match[1]}T18:00'")
    raise BudgetError(f"'until {text}' is not a time{reason}; {write}")


def _read_slurm(text: str) -> Slurm:
    if not text:
        return Slurm()
    margin = parse_duration(text[1:].strip()) if text.startswith("-") else None
    if margin is None:
        raise BudgetError(f"'slurm {text}' is not understood; write 'slurm' or 'slurm - 5min'")
    return Slurm(margin)


def _read_money(text: str) -> Money | None:
    amount, at, price = (part.strip() for part in re.sub(r"\s+at\s+", "\0at\0", text + " ").partition("\0at\0"))
    spent = _money(amount)
    if spent is None:
        return None
    if not at or not (rate := re.fullmatch(r"(.*?)\s*/\s*(?:h|hr|hour)", price)):
        raise BudgetError(f"'{text}' needs a price by the hour; write for example '$20 at $2.5/h'")
    cost = _money(rate[1])
    if cost is None:
        raise BudgetError(f"'{price}' is not a price by the hour; write for example '$20 at $2.5/h'")
    if cost[1] != spent[1]:
        raise BudgetError(f"it is in {spent[1]} and its price in {cost[1]}; write both in one currency")
    return Money(spent[0], cost[0], spent[1])


def _money(text: str) -> tuple[float, str] | None:
    signed = re.fullmatch(rf"([{''.join(_SIGNS)}])\s*({NUMBER})", text)
    if signed:
        return float(signed[2]), _SIGNS[signed[1]]
    named = re.fullmatch(rf"({NUMBER})\s*([A-Z]{{3}})", text)
    if named is None or named[2].lower() in _UNITS or parse_duration(text) is not None:
        return None  # KWH and MIN are units, not currencies
    return float(named[1]), named[2]
