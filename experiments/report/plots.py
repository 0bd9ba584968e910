"""How figures look, and saving them to the same bytes every time. Readable in grey: markers, dashes and hatches."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from ..paper import LOW, PRETRAINING, Cell

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "mora",
}
# Dark to light within a hue, so that a grey print keeps them apart; markers and dashes say the rest.
COLOURS = ("#000000", "#c1440e", "#1f5fa8", "#e39a3b", "#6baed6", "#7a3e9d", "#4d9a4d", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", "--", "-", (0, (1, 1)), "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), ":")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "++", "--")
DPI = 150


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the series at a place in its figure; different for 64 of them."""
    i, n = index, len(COLOURS)
    shifted = (i + i // n) % n
    return {"color": COLOURS[i % n], "marker": MARKERS[shifted], "linestyle": DASHES[shifted]}


def look_of(cell: Cell) -> dict[str, Any]:
    """The same look for a method at a rank in every figure that compares methods; a variant has its colour."""
    low, extra = cell.rank == LOW, len(COLOURS) if cell.options else 0
    places = {
        "fft": 0,
        "lora": 1 if low or cell.rank == PRETRAINING else 3,
        "mora": 4 if low else 2,
        "relora": 3,
        "remora": 5,
    }
    return look(places.get(cell.method, 6) + extra)


def log_axis(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis of counts whose labels (20 k, 1 M) do not meet."""
    subs = (1, 2, 5) if high < 300 * low else (1,)
    axis.axes.set_xscale("log")
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(EngFormatter())
    axis.set_minor_formatter(NullFormatter())


def canvas(panels: int, *, height: float = 3.4) -> tuple[Figure, Sequence[Any]]:
    """A figure with panels side by side."""
    figure = Figure(figsize=(4.6 * panels if panels > 1 else 6.4, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)


def legend_below(figure: Figure, axes: Any, columns: int) -> None:
    """One legend for all panels, outside them, so that it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def saved(figure: Figure) -> dict[str, bytes]:
    """Suffix -> content. No date, no version, fixed ids."""
    made = {}
    for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], dpi=DPI, metadata=metadata)
        made[suffix] = buffer.getvalue()
    return made


class Picture:
    """A figure that a notebook shows, drawn as the files are."""

    def __init__(self, figure: Figure) -> None:
        with styled():
            self.svg = saved(figure)[".svg"].decode()

    def _repr_svg_(self) -> str:
        return self.svg


def styled() -> Any:
    """A context in which figures are made and saved."""
    return matplotlib.rc_context(STYLE)
