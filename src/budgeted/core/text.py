"""Numbers and durations as text, both ways, so that what is printed can be read back."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
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
    close = _close(word, known)
    return f"; did you mean '{close[0]}'?" if close else ""


def file_name(text: str) -> str:
    """Text as part of a file's name; of a path, its last part.

    >>> file_name("tasks/mine.py:Task")
    'mine.py-Task'
    """
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text.rpartition("/")[2])


def format_bytes(size: float) -> str:
    """Bytes for people, in powers of 1000.

    >>> format_bytes(44_800_000)
    '44.8 MB'
    """
    unit = "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


# What people type for a budget, and how it is written. Applied one after another, whatever the case of the letters.
_Slip = tuple[str, str | Callable[[re.Match[str]], str]]
_DIGITS: list[_Slip] = [
    (r"^[-+]\s*(?=[\d.$€£¥])", ""),
    (r"(?<=\d)[ ,'](?=\d{3}(?!\d))", ""),  # 1,000 steps
    (r"(?<=\d),(?=\d)", "."),  # 2,5 h
]
_MONEY: list[_Slip] = [
    (r"\s*(?:dollars?|bucks|usd)\b", "$"),
    (r"\s*(?:euros?|eur)\b", "€"),
    (r"\s*(?:pounds?|gbp)\b", "£"),
    (r"(?<=[$€£¥])\s*-", ""),
    (rf"({NUMBER})\s*([$€£¥])", r"\2\1"),
    (r"\s*(?:@|\bfor\b|\bat\b)\s*", " at "),
    (r"\s*(?:/|\bper\b|\ban\b)\s*(?:h|hr|hour)\b|\s+hourly$", "/h"),
    (rf" at ([$€£¥]?)({NUMBER})$", r" at \1\2/h"),
    (r"^([$€£¥])(.+ at )(?=[\d.])", r"\1\2\1"),
    (rf"^(.+ )([a-z]{{3}})( at (?:{NUMBER}))/h", r"\1\2\3 \2/h"),
]
_NUMERALS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_POWERS = {"k": 3, "t": 3, "m": 6, "b": 9}
_COUNTED = r"steps?|updates?|iterations?|iters?|it|epochs?|ep|samples?|tokens?"
_SLIPS: list[_Slip] = [
    (r"^(?:for|in|within|about|at most)\s+", ""),
    (r"\s+from now$|\.$", ""),
    (r"^half an?\s+", "0.5 "),
    (r"^an?\s+", "1 "),
    (rf"^({'|'.join(_NUMERALS)})\b", lambda m: str(_NUMERALS.index(m[1].lower()) + 1)),
    (
        rf"^(\d+(?:\.\d+)?)\s*(k|m|b|thousand|million|billion)\s*({_COUNTED}|)$",
        lambda m: f"{Decimal(m[1]).scaleb(_POWERS[m[2][0].lower()]):f} {m[3] or 'steps'}",
    ),
    (r"\s*(?:%+|percent|per cent|pct)$", "%"),
    (rf"^({NUMBER})\s*(?:h|hours?)?\s*(?:of |on )?gpus?[\s-]*(?:h|hours?)?$", r"\1 gpuh"),
    (r"^(\d+)\s*h(?:ours?)?\s*(\d\d?)$", r"\1h\2min"),
    (r"^(\d+):(\d\d):(\d\d)$", r"\1h\2min\3s"),
    (r"^(?:until+|till?|by|before)\s+(?:today\s+)?(?:at\s+)?", "until "),
    (r"^until noon\b", "until 12:00"),
    (r"^until (?:midnight|24:00)\b", "until 00:00"),
    (r"^until (\d\d?)(?:[:.](\d\d))?\s*([ap])\.?m\b\.?", lambda m: f"until {_hour(m[1], m[3])}:{m[2] or '00'}"),
    (r"^until (\d\d?)\s*(?:h|o'clock|uhr)$", r"until \1:00"),
    (r"^until (\d\d)[.h]?(\d\d)$", r"until \1:\2"),
    (r"^until (?=\d:)", "until 0"),
]


def _hour(written: str, half: str) -> str:
    """Of the 24-hour clock: 12 am is 00, 12 pm is 12."""
    return f"{int(written) % 12 + (12 if half in 'pP' else 0):02}"


def likely(text: str, units: Iterable[str]) -> Iterator[str]:
    """What somebody may have meant by a budget that cannot be read, the likeliest first; it need not be one either.

    >>> list(likely("20$ at 2,5/h", [])), list(likely("until 6pm", [])), list(likely("90s and 5k steps", []))
    (['$20 at $2.5/h'], ['until 18:00'], ['90s or 5000 steps'])
    """
    parts = [_tidied(part) for part in re.split(r"\s*(?:[,;|&]|\band\b)\s*", _rewritten(text, _DIGITS))]
    if len(parts) > 1 and parse_duration("".join(parts)) is not None:
        yield "".join(parts)  # 1h and 30min
    if (joined := " or ".join(parts)) != text:
        yield joined
    if match := re.fullmatch(rf"({NUMBER})\s*(\D+)", text):
        yield from (f"{match[1]} {unit}" for unit in _close(match[2], units))
    elif match := re.match(r"[a-z]+", text, re.IGNORECASE):
        yield from (word + text[match.end() :] for word in _close(match[0], ["slurm", "until"]) if word != match[0])


def _tidied(text: str) -> str:
    return _rewritten(text, _MONEY if re.search(r"[$€£¥@]|\d.* at \d|\b(?:dollar|euro|pound)s?\b", text) else _SLIPS)


def _rewritten(text: str, slips: list[_Slip]) -> str:
    for pattern, replacement in slips:
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
    return text


def _close(word: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(word.lower(), list(known), n=1)
