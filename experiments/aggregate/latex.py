"""Tables as LaTeX: a fragment a table, and one document that holds them and compiles with a plain pdflatex."""

from __future__ import annotations

from collections.abc import Iterable

from . import wording
from .tables import Entry, Made

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
    columns = made.columns
    lines = [r"\begin{table}[p]", r"\centering\small"]
    title = f"{made.table.title} (scale: {made.scale}). {' '.join(wording.footnotes(made))}"
    lines.append(rf"\caption{{Table {made.table.number} of the paper: {text(title)}}}")
    lines.append(rf"\label{{tab:mora-{made.table.number}-{made.scale}}}")
    lines += [rf"\begin{{tabular}}{{l*{{{len(columns)}}}{{rr}}r}}", r"\toprule"]
    lines.append("".join(rf" & \multicolumn{{2}}{{c}}{{{text(c.label)}}}" for c in columns) + r" & trainable \\")
    lines.append("".join(rf"\cmidrule(lr){{{2 * j + 2}-{2 * j + 3}}}" for j in range(len(columns))))
    lines += [" & paper & ours" * len(columns) + r" & parameters \\", r"\midrule"]
    for row in made.entries:
        cells = [text(row[0].row.label), *(c for entry in row for c in _pair(entry))]
        filled = next((e.filled for e in row if e.values), row[0].filled)
        lines.append(" & ".join([*cells, text(wording.parameters(filled))]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def _pair(entry: Entry) -> tuple[str, str]:
    shown = text(wording.ours(entry))
    return text(wording.published(entry)), rf"\textbf{{{shown}}}" if entry.best else shown


def document(names: Iterable[str]) -> str:
    """A document that inputs the fragments of these file names."""
    return DOCUMENT % "".join(f"\\input{{{name}}}\n" for name in names)
