"""Numbers and durations as text, both ways, so that what is printed can be read back."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from fractions import Fraction

NUMBER = r"[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?"

_SECONDS = {
    "ms": Fraction(1, 1000),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Fraction(1)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), Fraction(60)),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), Fraction(3600)),
    **dict.fromkeys(("d", "day", "days"), Fraction(86400)),
}
_DURATION = re.compile(rf"(?:\s*(?:{NUMBER})\s*[a-z]+)+\s*", re.IGNORECASE)
_DURATION_PART = re.compile(rf"({NUMBER})\s*([a-z]+)", re.IGNORECASE)


def exact(number: float | str) -> Fraction:
    """The decimal that was written: `exact(0.05)` is 1/20, not the nearest binary fraction."""
    return Fraction(number if isinstance(number, str) else repr(number))


def format_number(number: float) -> str:
    """The shortest text that reads back as the same float.

    >>> format_number(2000.0), format_number(0.05), format_number(5e6), format_number(1e17)
    ('2000', '0.05', '5e6', '1e17')
    """
    if number == int(number) and abs(number) < 1e6:
        return str(int(number))
    mantissa, _, exponent = repr(float(number)).partition("e")
    if not exponent and number == int(number):
        digits = str(int(number))
        stripped = digits.rstrip("0")
        if len(digits) - len(stripped) < 4:
            return digits
        point = f"{stripped[0]}.{stripped[1:]}".rstrip(".")
        return f"{point}e{len(digits) - 1}"
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if exponent else mantissa


def parse_duration(text: str) -> float | None:
    """Seconds of `45min`, `1h30m` or `90 s`; None where the text is no duration.

    >>> parse_duration("1h30m"), parse_duration("0.5 s"), parse_duration("ten")
    (5400.0, 0.5, None)
    """
    if not _DURATION.fullmatch(text):
        return None
    total = Fraction(0)
    for number, unit in _DURATION_PART.findall(text):
        seconds, number = _SECONDS.get(unit.lower()), number.replace("_", "")
        if seconds is None:
            return None
        if float(number) > 1e300:
            return math.inf
        if float(number) > 0:  # as a fraction, 1e-999999999 would take all memory
            total += Fraction(number) * seconds
    return float(total)


def format_duration(seconds: float) -> str:
    """The text of a duration, exact enough to read back as the same float.

    >>> format_duration(5400), format_duration(20), format_duration(0.25), format_duration(93784)
    ('1h30min', '20s', '0.25s', '1d2h3min4s')
    """
    if seconds != int(seconds) or not 60 <= seconds < 1e9:
        return f"{format_number(seconds)}s"
    left = int(seconds)
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts)


def format_seconds(seconds: float) -> str:
    """A duration for people: whole seconds from a minute on, hundredths below.

    >>> format_seconds(75.4), format_seconds(0.123)
    ('1min15s', '0.12s')
    """
    return format_duration(round(seconds)) if seconds >= 60 else f"{format_number(round(seconds, 2))}s"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'linear'?` where a known word is close, else nothing."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
