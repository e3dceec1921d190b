"""One look for every figure: fit for print, readable in grey and by colour-blind people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # without pyplot: no state, no window, and half the time to import

from ..core.errors import RunFolderError

# Okabe and Ito's colours, told apart in every kind of colour vision; the dashes tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One dash fewer than colours: only after 42 lines do both come again.
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")

_RC: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "svg.hashsalt": "budgeted",
}


@contextmanager
def figure(path: Path, width: float = 6.4, height: float = 3.6) -> Iterator[Figure]:
    """A figure that is written to `path` at the end, in the format that its ending names.

    Raises:
        RunFolderError: where it cannot be written, or the format is unknown.
    """
    if not path.suffix:  # matplotlib would write another file than the one that was named
        raise RunFolderError(f"cannot write the figure '{path}': give it an ending, .png or .svg")
    with mpl.rc_context(_RC):  # type: ignore[arg-type]
        drawn = Figure((width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        yield drawn
        try:
            drawn.savefig(path)
        except (OSError, ValueError) as error:
            raise RunFolderError(f"cannot write the figure '{path}': {error}") from error


def look(number: int, *, markers: bool = True) -> dict[str, Any]:
    """How the line of a number looks: colour, dashes and marker, told apart in grey too."""
    line = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
    return {**line, "marker": MARKERS[number % len(MARKERS)]} if markers else line
