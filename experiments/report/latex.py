"""Tables as LaTeX: a `table` environment for each table, and a document that shows all tables.

The document compiles with a plain pdflatex.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import wording
from .tables import FilledTable

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "—": "---", "▲": r"$^{\uparrow}$",
    "▼": r"$^{\downarrow}$", "<": r"\textless{}", ">": r"\textgreater{}", "`": "'", "|": r"\textbar{}",
}  # fmt: skip

DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}{\let\toprule\hline \let\midrule\hline \let\bottomrule\hline}
\usepackage[margin=1cm,paperwidth=60cm,paperheight=30cm]{geometry}
\begin{document}
\small
%s\end{document}
"""


def text(value: str) -> str:
    """Any text, with every character that LaTeX would interpret escaped. Characters unknown here become `?`."""
    return "".join(SPECIAL.get(c, c if c.isascii() and c.isprintable() else "?") for c in value)


def fragment(table: FilledTable) -> str:
    """A `table` environment in the style of booktabs, with the best value of each column in bold."""
    cells = wording.cells(table, r"\textbf{%s}", text)
    cells["trainable", "parameters"] = [text(wording.row_costs(row)["trainable_parameters"]) for row in table.entries]
    of_paper = table.layout.is_of_paper
    heading = table.layout.heading.replace(": ", " of the paper: ", 1) if of_paper else table.layout.heading
    title = f"{heading} (scale: {table.scale}). {' '.join(wording.footnotes(table))}"
    return cells.style.to_latex(
        position="p",
        position_float="centering",
        hrules=True,
        column_format="l" + "r" * cells.shape[1],
        multicol_align="c",
        caption=text(title),
        label=f"tab:mora-{table.layout.name.removeprefix('table')}-{table.scale}",
    )


def document(names: Iterable[str]) -> str:
    """A document that inputs the fragments of these file names."""
    return DOCUMENT % "".join(f"\\input{{{name}}}\n" for name in names)
