"""`budgeted rank`."""

from __future__ import annotations

from pathlib import Path

import click

from .report import chosen_formats, short, width


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option(
    "--reference", help="The schedule whose ranks at the largest budget are to be predicted.  [default: linear]"
)
@click.option("--out", type=click.Path(path_type=Path), help="Where the files go.  [default: the study's folder]")
@click.option("--formats", help="Some of md,csv,tex,png,svg; 'none' prints the tables only.  [default: all]")
def rank(study: Path, reference: str | None, out: Path | None, formats: str | None) -> None:
    """Say how well small budgets rank the configurations of a STUDY, given by its folder.

    Its configurations are the models, optimizers and rates of its rows. For each schedule and each small budget: Kendall's tau
    between the ranks there and those at the largest budget, the mean of the metric, and its share of the full one.

    \b
    budgeted study table6-small
    budgeted rank runs/studies/table6-small-fashion-mnist
    """
    from rich.console import Console

    from ..analysis.ranking import rankings
    from ..analysis.results import runs_of
    from ..core.manifest import Manifest
    from ..report.ranking import print_ranking, write_rankings

    endings = chosen_formats(formats, ("md", "csv", "tex", "png", "svg"))
    manifest = Manifest.read(study)
    found = rankings(manifest, runs_of(manifest), reference)
    console = Console(width=width())
    for one in found:
        print_ranking(one, console)
    place = manifest.path if out is None else out
    if written := write_rankings(found, place, endings):
        click.echo(f"\n{short(place)}: {', '.join(file.name for file in written)}")
