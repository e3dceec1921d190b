"""What the comparisons share: who takes part, spreads over interleaved rounds, the machine and the versions that a table is true of, files."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def extent(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest of few, or the quartiles of many."""
    if len(values) <= 10:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and how far the values go to both sides of it; one alone as it is."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    low, high = extent(values)
    return f"{statistics.median(values):{form}} ({low:{form}} to {high:{form}})"


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Of each round: what a slow machine did to one side it did to the other."""
    return [a / b for a, b in zip(values, reference, strict=True)]


def chosen(
    parser: argparse.ArgumentParser, only: str | None, names: Iterable[str], reference: str | None = None
) -> list[str]:
    """The names that `--only NAME,...` asks for, in the order of all of them, and the reference; all where nothing is asked for."""
    known = list(names)
    asked = known if only is None else [name.strip() for name in only.split(",")]
    if unknown := [name for name in asked if name not in known]:
        parser.error(f"--only: there is no '{unknown[0]}'; there are {', '.join(known)}")
    return [name for name in known if name in asked or name == reference]


def installed(names: Iterable[str], package_of: Mapping[str, str]) -> list[str]:
    """Those whose packages are there; a sentence about each other one."""
    there = []
    for name in names:
        if importlib.util.find_spec(package_of[name]) is not None:
            there.append(name)
        else:
            print(f"{name} is left out: there is no package {package_of[name]}", file=sys.stderr)
    return there


def draw(path: Path | None, label: str, found: Mapping[str, Sequence[float]]) -> None:
    """A picture, if a file was asked for: of each name the median of its ratios, and how far they go to both sides of it."""
    if path is None:
        return
    from budgeted.report.style import COLOURS, figure

    with figure(path, 6.4, 0.8 + 0.28 * len(found)) as drawn:
        axes = drawn.subplots()
        for place, (name, values) in enumerate(found.items()):
            (low, high), middle = extent(values), statistics.median(values)
            colour, marker = (COLOURS[0], "o") if "budgeted" in name or "attach" in name else (COLOURS[-1], "s")
            axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt=marker, color=colour, markersize=5)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(found)), list(found))
        axes.set_ylim(len(found) - 0.5, -0.5)  # the first on top
        axes.set_xlim(left=0)
        axes.set_xlabel(label)


def label_ends_and_rates(ends: Any, rates: Any, names: Sequence[str]) -> None:
    """The axes of when runs ended, as a share of the budget, and at which rate; a line of dots a name."""
    for axes in (ends, rates):
        axes.set_axisbelow(True)
    ends.set_yticks(range(len(names)), names)
    ends.invert_yaxis()
    ends.xaxis.set_major_formatter(lambda share, _: f"{share:+.0%}")
    ends.locator_params(axis="x", nbins=5)
    ends.set_xlabel("end - budget, as a share of the budget")
    rates.set_xscale("symlog", linthresh=1e-4)  # a rate may be zero
    rates.set_xlabel("rate of the last update / base")


def circumstances(packages: Iterable[str] = ()) -> dict[str, Any]:
    """The machine, the versions, the command and the date that a table is true of."""
    versions = {name: version for name in ("torch", *packages) if (version := _version(name)) is not None}
    command = " ".join(["python", *sys.argv])
    return {
        "date": dt.date.today().isoformat(),
        "command": command,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Its name, and which wide instructions it has: speeds in bf16 hang on them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(wide)})"


def show(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], about: Mapping[str, Any]) -> None:
    """A table, and below it what it is true of."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    console.print(
        f"{about['date']}; {about['processor']}, {about['cores']} cores; Python {about['python']}, {versions}",
        highlight=False,
    )


def keep(path: Path | None, about: Mapping[str, Any], results: Any) -> None:
    """Write them as JSON, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n", encoding="utf-8")
