"""One HTML page for a study: sortable tables, interactive curves, each run's details. It opens from disk, with no network."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.results import counts, curve, saved
from ..analysis.tables import Table, frontier, normalised
from ..core.manifest import Manifest
from ..core.record import SCHEMA
from .study_figures import places
from .style import look
from .tables import cell_text, digits, legend

if TYPE_CHECKING:
    import pandas as pd

_PLOTLY_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")
_PLOTLY_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "triangle-left", "triangle-right", "star", "hexagon")  # fmt: skip
_POINTS = 60  # of a run's curve, beside its evaluations
_FIGURES = 5  # significant, of what a curve shows


def page(manifest: Manifest, runs: pd.DataFrame, tables: Sequence[Table], remarks: Sequence[str]) -> str:
    """The page as text.

    Args:
        manifest: of the study.
        runs: its runs.
        tables: one a task.
        remarks: what may be concluded, in sentences.
    """
    from plotly.offline import get_plotlyjs

    study = manifest.content["study"]
    ours = resources.files(__package__).joinpath("assets")
    datatables = resources.files("itables").joinpath("html")
    parts = {
        "title": html.escape(study["title"] or study["name"]),
        "summary": html.escape(_summary(runs)),
        "remarks": "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks),
        "tables": "".join(_section(number, table) for number, table in enumerate(tables)),
        "runs": _runs_table(runs),
        "data": _json(_data(manifest, runs, tables)),
        "style": ours.joinpath("page.css").read_text(encoding="utf-8"),
        "script": ours.joinpath("page.js").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
        "datatables": base64.b64encode(datatables.joinpath("dt_bundle.js").read_bytes()).decode(),
        "datatables_style": datatables.joinpath("dt_bundle.css").read_text(encoding="utf-8"),
    }
    text = ours.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text)


def _json(data: Any) -> str:
    """Nothing in it ends the script element that it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _summary(runs: pd.DataFrame) -> str:
    found = counts(runs)
    made, alike = saved(runs)
    words = [
        f"{found.get(kind, 0)} {kind}" for kind in ("finished", "failed", "unfinished", "missing") if found.get(kind)
    ]
    text = f"{sum(found.values())} runs: {', '.join(words)}. {made:,} updates"
    return f"{text}, {alike:,} of them ({alike / made:.0%}) trained once for several runs." if alike else f"{text}."


def _section(number: int, table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "".join(f"<tr><th>{html.escape(row)}</th>{''.join(_cells(table, row))}</tr>" for row in table.rows)
    mark = '<p class="partial">Partial: runs are missing.</p>' if table.partial else ""
    return (
        f'<section><h2>{html.escape(table.name)}</h2>{mark}<table class="sortable" id="table{number}"><thead><tr><th>row</th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table><p class='legend'>{html.escape(legend(table))}</p>"
        f'<div class="buttons" data-figure="{number}"></div><div class="figure" id="budgets{number}"></div></section>'
    )


def _cells(table: Table, row: str) -> Iterator[str]:
    precision = digits(table)
    for column in table.columns:
        cell = table.cell(row, column)
        place = f' class="place{cell.place}"' if cell.place else ""
        worst = -math.inf if table.maximize else math.inf
        order = cell.centre if cell.values else worst
        yield f'<td{place} data-order="{order}">{html.escape(cell_text(cell, precision))}</td>'


def _runs_table(runs: pd.DataFrame) -> str:
    names = ["task", "row", "budget", "seed", "status", "best", "final", "best_progress", "steps", "seconds"]
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in names)
    body = []
    for number, run in enumerate(runs[names].itertuples(index=False)):
        cells = "".join(_run_cell(value) for value in run)
        body.append(f'<tr data-run="{number}" tabindex="0">{cells}</tr>')
    return f'<table class="sortable" id="runs"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _run_cell(value: Any) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return '<td data-order="-1e300"></td>'
        return f'<td data-order="{value}">{int(value) if value == int(value) else f"{value:.5g}"}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def _data(manifest: Manifest, runs: pd.DataFrame, tables: Sequence[Table]) -> dict[str, Any]:
    """All that the page's script draws from."""
    metrics = {task: facts["metric"] for task, facts in manifest.content["tasks"].items()}
    specs = [cell["spec"] for cell in manifest.content["cells"]]
    return {
        "schema": SCHEMA,
        "tables": [_plotted(table) for table in tables],
        "runs": [
            _run(run, spec, metrics[run["task"]]) for run, spec in zip(runs.to_dict("records"), specs, strict=True)
        ],
        "looks": {row: _plotly_look(k) for k, row in enumerate(dict.fromkeys(runs["row"]))},
    }


def _plotly_look(number: int) -> dict[str, Any]:
    return {
        "color": look(number)["color"],
        "dash": _PLOTLY_DASHES[number % len(_PLOTLY_DASHES)],
        "symbol": _PLOTLY_MARKERS[number % len(_PLOTLY_MARKERS)],
    }


def _plotted(table: Table) -> dict[str, Any]:
    columns = [c for c in table.columns if c != "all"]
    xs, labels, log = places(columns)
    rows = {}
    for row in table.rows:
        there = [(x, c) for x, column in zip(xs, columns, strict=True) if (c := table.cell(row, column)).values]
        rows[row] = {
            "x": [x for x, _ in there],
            "y": [c.centre for _, c in there],
            "low": [c.spread[0] for _, c in there],
            "high": [c.spread[1] for _, c in there],
        }
    best = dict(frontier(table)) if len(table.rows) > 1 and table.value != "best_progress" else {}
    return {
        "task": table.task,
        "what": table.what,
        "rows": rows,
        "ticks": xs,
        "labels": labels,
        "log": log,
        "full": normalised(table),
        "frontier": {
            "x": [x for x, c in zip(xs, columns, strict=True) if c in best],
            "y": [best[c] for c in columns if c in best],
        },
    }


def _run(run: dict[str, Any], spec: dict[str, Any], metric: str) -> dict[str, Any]:
    folder = run["folder"]
    known = isinstance(folder, str)
    found = curve(Path(folder), metric, _POINTS) if known else None
    lines: dict[str, Any] = {}
    if found is not None and not found.empty:
        for name in ("steps", "loss", "factor", metric):
            lines[name] = [None if v is None or v != v else float(f"{v:.{_FIGURES}g}") for v in found[name].tolist()]
    figures = {k: v for k, v in run.items() if k not in ("folder",) and not (isinstance(v, float) and math.isnan(v))}
    figures["folder"] = Path(folder).name if known else ""
    return {
        "figures": figures,
        "spec": {k: v for k, v in spec.items() if v is not None},
        "metric": metric,
        "curve": lines,
    }
