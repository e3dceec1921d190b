"""A study's report: the table in the terminal; tables, figures and a page in files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis import gradients, results, statistics
from ..analysis.ranking import Ranking, rankings
from ..analysis.tables import Table, tables_of
from ..core.errors import StudyError
from ..core.manifest import TASKS_OWN, Manifest
from ..core.record import atomic_write, explained
from ..core.text import file_name
from . import tables as form
from .ranking import markdown as ranking_markdown
from .ranking import print_ranking, write_rankings

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

FORMATS = ("md", "csv", "tex", "png", "svg", "html")


class Report:
    """What there is to say of a study.

    Args:
        manifest: of the study.

    Raises:
        StudyError: where it has no runs.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.study = manifest.content["study"]
        self.runs: pd.DataFrame = results.runs_of(manifest)
        self.tables: list[Table] = tables_of(manifest, self.runs)
        self.ranks = None
        if self.study["value"] != "best_progress" and not self.study.get("ranks"):
            maximize = {table.task: table.maximize for table in self.tables}
            self.ranks = statistics.ranks(self.runs, "value", maximize)
        # Of a study without probes no rows need be read.
        probed = [cell["spec"].get("probes") is not None for cell in manifest.content["cells"]]
        self.probes = gradients.probes_of(self.runs[probed])
        self.rankings = self._rankings()
        self.remarks = list(self._remarks())

    def _rankings(self) -> list[Ranking]:
        """Where the study is one of ranks, what they come to; nothing while too little of it is finished."""
        if self.study.get("ranks"):
            with contextlib.suppress(StudyError):
                return rankings(self.manifest, self.runs)
        return []

    def _remarks(self) -> Iterator[str]:
        """What may be concluded, and what may not."""
        yield from statistics.cautions(self.runs)
        yield from self._correlations()
        if self.study["value"] == "best_progress" or self.study.get("ranks"):  # whose rows are not to be compared
            return
        for table in self.tables:
            if table.also:
                continue
            of_task = self.runs[self.runs["task"] == table.task]
            where = f"{table.task}: " if len(self.tables) > 1 else ""
            for found in statistics.comparisons(of_task, "value", table.maximize):
                yield f"{where}{found}."
        if (ranks := self.ranks) is not None and len(ranks.mean) > 2:
            order = ", ".join(f"{row} {rank:.2f}" for row, rank in ranks.mean.items())
            test = "" if ranks.p != ranks.p else f"; Friedman's p = {ranks.p:.2g}"
            yield (
                f"Average ranks over {ranks.blocks} blocks of task and budget: {order}{test}. {ranks.caveat}".strip().rstrip(
                    "."
                )
                + "."
            )

    def _correlations(self) -> Iterator[str]:
        """How closely the full gradient's norm followed the rate."""
        for task, probes in self.probes.groupby("task", sort=False):
            cells = [
                f"{c.row} at {c.budget} {_coefficient(c.pearson)} / {_coefficient(c.spearman)} (to {c.fell_to:.2g})"
                for c in gradients.correlations(probes).itertuples()
            ]
            if cells:
                yield (
                    f"{task}: correlation of the full gradient's norm with the rate after the first update, Pearson / Spearman, and "
                    f"what the norm came to at the end, as a share: {'; '.join(cells)}."
                )

    def print(self, console: Console) -> None:
        """The tables and what may be concluded, as wide as the terminal."""
        title = self.study["title"] or self.study["name"]
        console.print(f"\n{title}", style="bold", markup=False, highlight=False)
        for table in self.tables:
            console.print(f"\n{table.name}", markup=False, highlight=False)
            console.print(form.terminal(table, console.width))
            console.print(form.legend(table), style="dim", markup=False, highlight=False)
        for ranking in self.rankings:
            print_ranking(ranking, console)
        for remark in self.remarks:
            console.print(f"- {remark}", markup=False, highlight=False)
        if saving := self._saving():
            console.print(f"- {saving}", markup=False, highlight=False)
        for run, reason in self._failures():
            console.print(f"failed: {run}: {reason}", style="red", markup=False, highlight=False)

    def _saving(self) -> str:
        """What sharing saved, in a sentence; empty where it saved nothing."""
        made, alike = results.saved(self.runs)
        return (
            f"{alike:,} of {made:,} updates ({alike / made:.0%}) were trained once for several runs." if alike else ""
        )

    def _failures(self) -> Iterator[tuple[str, str]]:
        failed = self.runs[self.runs["status"] == "failed"].drop_duplicates("run")
        for run in failed.itertuples():
            yield f"{run.run} ({run.row}, {run.budget}, seed {run.seed})", str(run.reason)

    def write(self, out: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write the report's files into a folder.

        Args:
            out: the folder; made where it is missing.
            formats: which of `FORMATS`.

        Returns:
            The files, the page first.

        Raises:
            RunFolderError: where one cannot be written.
        """
        written: list[Path] = []
        with explained(out):
            out.mkdir(parents=True, exist_ok=True)

        def put(name: str, text: str) -> None:
            with explained(out):
                atomic_write(out / name, text.encode())
            written.append(out / name)

        if "html" in formats:
            from .page import page

            put("index.html", page(self.manifest, self.runs, self.tables, self.remarks))
        if "md" in formats:
            put("report.md", self.markdown())
        if "tex" in formats:
            put("tables.tex", "\n".join(map(form.latex, self.tables)))
        if "csv" in formats:
            put("table.csv", form.table_csv(self.tables))
            put("runs.csv", form.runs_csv(self.runs))
        if self.rankings:
            written += write_rankings(self.rankings, out, formats)
        for ending in ("png", "svg"):
            if ending in formats:
                for name, draw in self._figures():
                    draw(path := out / f"{name}.{ending}")
                    if path.exists():
                        written.append(path)
        return written

    def markdown(self) -> str:
        """The whole report as Markdown."""
        parts = [f"# {self.study['title'] or self.study['name']}\n"]
        parts += [form.markdown(table) for table in self.tables]
        if self.rankings:
            parts.append(ranking_markdown(self.rankings))
        if self.remarks:
            parts.append("".join(f"- {remark}\n" for remark in self.remarks))
        if saving := self._saving():
            parts.append(f"{saving}\n")
        if failures := list(self._failures()):
            parts.append("Failed:\n\n" + "".join(f"- {run}: {reason}\n" for run, reason in failures))
        return "\n".join(parts)

    def _figures(self) -> Iterator[tuple[str, Callable[[Path], None]]]:
        """The figures that the study wants, by their files' names."""
        from . import gradient_figures
        from . import study_figures as figures

        several = len(self.tables) > 1
        wanted = self.study["figures"]
        for table in self.tables:
            ending = f"-{file_name(table.name)}" if several else ""
            done = self.runs[(self.runs["task"] == table.task) & (self.runs["status"] == "finished")]
            if "budgets" in wanted and table.value != "best_progress" and not done.empty:
                yield f"budgets{ending}", partial(figures.draw_budgets, table)
            if "curves" in wanted and not done.empty:
                yield (
                    f"curves{ending}",
                    partial(figures.draw_curves, done, table.metric),
                )
            probes = self.probes[self.probes["task"] == table.task]
            if "norms" in wanted and not probes.empty:
                yield f"norms{ending}", partial(gradient_figures.draw_norms, probes)
                if probes["equivalent_rate"].notna().any():
                    yield f"rates{ending}", partial(gradient_figures.draw_rates, probes)
        if "schedules" in wanted and "rows" in self.study:
            rows = {row["label"]: row["schedule"].replace(" over full", "") for row in self.study["rows"]}
            drawn = [(label, text) for label, text in rows.items() if text not in TASKS_OWN]
            yield "schedules", partial(figures.draw_study_schedules, drawn, self.study["budgets"])
        if "tasks" in wanted:
            yield "tasks", partial(figures.draw_tasks, self.tables)
        if self.ranks is not None and self.ranks.pairwise is not None:
            yield "ranks", partial(figures.draw_ranks, self.ranks, list(dict.fromkeys(self.runs["row"])))


def _coefficient(value: float) -> str:
    return "none" if value != value else f"{value:.2f}"
