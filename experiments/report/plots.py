"""How figures look, and how they are saved: the same figure always gives the same bytes.

Markers, dashes and hatches keep the series apart on a grey print.
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from ..errors import shortened
from ..paper import Cell
from ..spec import methods

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.formatter.useoffset": False,  # 99.98 and 100 at the ticks, not -0.02 and 0 with "+1e2" above the axis
    "text.parse_math": False,  # labels are a user's texts, in which $ is a letter
    "svg.hashsalt": "mora",
}
# Two colours of one hue differ in lightness, so that a grey print keeps them apart.
COLOURS = ("#000000", "#c1440e", "#1f5fa8", "#e39a3b", "#6baed6", "#7a3e9d", "#4d9a4d", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", "--", "-", (0, (1, 1)), "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), ":")
# Hatches of lines only: an SVG stores every dot or circle of a hatch as a path, 200 kB for each pattern.
HATCHES = ("", "///", "---", "xxx", "\\\\\\", "|||", "++", "--")
DPI = 150
OTHER_METHODS = 6  # the look of a method whose file names none


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the series at `index` in its figure; the first 64 series all differ."""
    i, n = index, len(COLOURS)
    shifted = (i + i // n) % n
    return {"color": COLOURS[i % n], "marker": MARKERS[shifted], "linestyle": DASHES[shifted]}


def looks_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A look for each series of a figure: that of its method, or that of its place where two methods look the same.

    A method at a rank has the same colour in every figure that compares methods. A variant of the method has this
    colour too, and another marker; a further variant has a third marker.
    """
    own: list[int] = []
    variants: dict[tuple[str, int | None], list[tuple[str, ...]]] = defaultdict(lambda: [()])
    for cell in cells:
        looks, seen = methods.looks(cell.method), variants[cell.method, cell.rank]
        options = tuple(option for option in cell.options if not option.startswith("method.rank="))
        if options not in seen:
            seen.append(options)
        own.append(looks.get(f"r{cell.rank}", looks.get("any", OTHER_METHODS)) + len(COLOURS) * seen.index(options))
    return [look(index) for index in (own if len(set(own)) == len(own) else range(len(own)))]


def log_axis(axis: Any, low: float, high: float) -> None:
    """Make the axis logarithmic, with labels such as 0.005, 20 k and 1 M, and so few that they do not overlap."""
    subs = (1, 2, 5) if high < 300 * low else (1,)
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(EngFormatter() if low >= 1 else FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def canvas(panels: int, *, height: float = 3.4, width: float = 0.0) -> tuple[Figure, Sequence[Any]]:
    """A figure with `panels` axes side by side; `height` and `width` of the figure in inches."""
    width = width or (4.6 * panels if panels > 1 else 6.4)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)


def title(figure: Figure, text: str) -> None:
    """A title over all panels, whose lines break where the figure ends."""
    most = int(TITLE_LETTERS * figure.get_size_inches()[0])
    figure.suptitle("\n".join(textwrap.fill(line, most) for line in text.split("\n")))


def legend_below(figure: Figure, axes: Any, columns: int) -> None:
    """One legend for all panels, below them, so that it covers no curve."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, [shortened(x, LABEL_WIDTH) for x in labels], loc="outside lower center", ncols=columns)


TITLE_LETTERS = 11  # of a title, for each inch of the figure
LABEL_WIDTH = 64  # the letters of the longest label for which a figure has room
LINE_HEIGHT = 0.16  # the inches of height that a line of a legend or of a note needs
TICK_WIDTH = 20  # the letters of the longest name below a tick
END_SIZE = 8  # the size of a label at the end of a line, in points
# The inches of a figure's height that such a label needs: a line of text in a panel, which has 0.72 of the height.
END_HEIGHT = 1.35 * END_SIZE / 72 / 0.72


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, dict[str, Any]]]) -> None:
    """Write a label for each line, or for each point, to the right of the panel, at its height or near it.

    A piece of the line, with its colour, dashes and marker, stands before the label. So lines that end at the same
    height are told apart too, on a grey print as well. Call this when the limits and the scale of the axes are final.

    Args:
        axes: A panel of a figure whose limits are set.
        ends: (y of the line's end or of the point, label, look) for each line or point.
    """
    of_axis = axes.yaxis.get_transform().transform  # a logarithm where the axis is logarithmic
    low, high = of_axis(axes.get_ylim())
    gap = END_HEIGHT / axes.figure.get_size_inches()[1]  # as part of the height of the panel
    heights = [float((y - low) / (high - low)) for y in of_axis([y for y, _, _ in ends])]
    beside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for (_, label, look), height, place in zip(ends, heights, spread(heights, gap), strict=True):
        axes.add_artist(Line2D([1.0, 1.03], [height, place], color=look["color"], linewidth=0.5, **beside))
        piece = Line2D([1.03, 1.065, 1.1], [place] * 3, markevery=[1], markersize=4, **look, **beside)
        axes.add_artist(piece)
        axes.text(1.115, place, shortened(label, LABEL_WIDTH), va="center", fontsize=END_SIZE, transform=axes.transAxes)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, moved apart until all have at least `gap` between them, in the same order, none above 1.

    Equal heights keep their order from top to bottom.
    """
    order = sorted(range(len(heights)), key=lambda i: (heights[i], -i))
    placed: list[float] = []
    for i in order:
        placed.append(max(heights[i], placed[-1] + gap) if placed else heights[i])
    ceiling = 1.0
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], ceiling)
        ceiling = placed[k] - gap
    moved = [0.0] * len(heights)
    for i, place in zip(order, placed, strict=True):
        moved[i] = place
    return moved


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file. Without the date and matplotlib's version, and with ids that `STYLE` fixes."""
    return _content(figure, "svg", {"Date": None, "Creator": None})


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, at `DPI`, without matplotlib's version."""
    return _content(figure, "png", {"Software": None})


def _content(figure: Figure, file_format: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def svg_element(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element of an HTML page: the drawing alone, without prolog, metadata and comments.

    The page has text where a file of the figure has the outlines of its letters.

    Args:
        figure: A figure drawn inside `style()`; it is laid out for the page and for no other file afterwards.
        name: The name of the figure in the page. A short hash of the name stands before every id, so that the ids of
            several figures in one page differ.
    """
    # Before matplotlib saves a figure, it draws the whole figure once only to lay it out. The layout alone is enough.
    FigureCanvasSVG(figure)
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine(None)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text, which can be found and copied
        text = svg(figure).decode()
    text = re.sub(r"<metadata>.*?</metadata>| xmlns[^ >]*|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub("<[^>]*>", _short_tag, text)
    text = re.sub(r"\n\s+", "\n", text)
    used = set(re.findall(r"""(?:url\(#|href="#)([^")]+)""", text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    prefix = f"f{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return re.sub(r"""( id="|url\(#|href="#)""", rf"\g<1>{prefix}-", text)


def _short_tag(tag: re.Match[str]) -> str:
    """A tag without what the page does not need: its style sheet names the font, and nobody sees 0.01 points."""
    short = re.sub(r"; font-family: '[^']*'| transform=\"rotate\(-0 [^)]*\)\"", "", tag[0])
    return re.sub(r"(\.\d\d)\d+", r"\1", short)


class NotebookFigure:
    """A figure that a notebook shows, drawn as in the files of `scripts/make_figures.py`."""

    def __init__(self, figure: Figure) -> None:
        with style():
            self.svg = svg(figure).decode()

    def _repr_svg_(self) -> str:
        return self.svg


def style() -> Any:
    """The context manager in which figures are drawn and saved."""
    return matplotlib.rc_context(STYLE)
