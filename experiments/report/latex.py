"""Tables as LaTeX: a fragment a table, and one document that holds them and compiles with a plain pdflatex."""

from __future__ import annotations

from collections.abc import Iterable

from . import wording
from .tables import Made

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "—": "---", "▲": r"$^{\uparrow}$",
    "▼": r"$^{\downarrow}$", "<": r"\textless{}", ">": r"\textgreater{}", "`": "'", "|": r"\textbar{}",
}  # fmt: skip

DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}{%%
  \let\toprule\hline \let\midrule\hline \let\bottomrule\hline \def\cmidrule(lr)##1{\cline{##1}}}
\usepackage[margin=1cm,paperwidth=60cm,paperheight=30cm]{geometry}
\begin{document}
%s\end{document}
"""


def text(value: str) -> str:
    """Any text, harmless in LaTeX."""
    return "".join(SPECIAL.get(c, c if c.isascii() and c.isprintable() else "?") for c in value)


def fragment(made: Made) -> str:
    """A `table` environment in the manner of booktabs, the best of each column in bold."""
    title = f"{made.table.title} (scale: {made.scale}). {' '.join(wording.footnotes(made))}"
    widths = [2 if made.has_published(j) else 1 for j in range(len(made.columns))]
    heads, rules, place = "", "", 2
    for column, width in zip(made.columns, widths, strict=True):
        heads += rf" & \multicolumn{{{width}}}{{c}}{{{text(column.label)}}}"
        rules += rf"\cmidrule(lr){{{place}-{place + width - 1}}}"
        place += width
    lines = [
        r"\begin{table}[p]",
        r"\centering\small",
        rf"\caption{{Table {made.table.number} of the paper: {text(title)}}}",
        rf"\label{{tab:mora-{made.table.number}-{made.scale}}}",
        rf"\begin{{tabular}}{{l*{{{sum(widths)}}}{{r}}r}}",
        r"\toprule",
        rf"{heads} & trainable \\",
        rules,
        "".join(" & paper & ours" if width == 2 else " & ours" for width in widths) + r" & parameters \\",
        r"\midrule",
    ]
    for row in made.entries:
        cells = [text(row[0].row.label)]
        for entry, width in zip(row, widths, strict=True):
            shown = text(wording.ours(entry))
            cells += [text(wording.published(entry))] if width == 2 else []
            cells.append(rf"\textbf{{{shown}}}" if entry.best else shown)
        filled = next((e.filled for e in row if e.values), row[0].filled)
        lines.append(" & ".join([*cells, text(wording.parameters(filled))]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def document(names: Iterable[str]) -> str:
    """A document that inputs the fragments of these file names."""
    return DOCUMENT % "".join(f"\\input{{{name}}}\n" for name in names)
