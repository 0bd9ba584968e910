"""docs/performance.md from the JSON file of a measurement. A test compares the page with the file."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from .targets import TARGETS, Row, Target

TITLES = {
    "linear": "One linear layer, forward and backward",
    "memory": "Memory of one linear layer",
    "merging": "Merging and restarting",
    "steps": "A training step",
    "league": "Every method against LoRA",
    "harness": "run.py against a bare loop",
    "startup": "Starting",
    "generation": "Generation",
    "growth": "Thousands of records and cells",
}
INTRODUCTION = """# Performance

`python scripts/benchmark.py` measures and writes this page. `python scripts/benchmark.py --render` writes the page
again from `results/benchmark.json` and measures nothing.

Two things that are compared ran in the same process and took turns: in each round, each of them was called once; every
other round went backwards. A time is the median over the rounds. A ratio is the ratio of two medians. The quartiles of
a time are over its rounds; the quartiles of a ratio are over the ratios of each round. "Of minima" is the ratio of the
fastest calls, which other programs disturbed least. Where "of minima" differs much from the ratio of the medians, the
machine was busy; the quartiles are then far apart as well.
"""
NOTES = {
    "linear": "1,024 tokens in float32; the gradient of the input is computed too. The overhead is the time that the "
    "adapter adds to the time of the frozen layer. LoRA and DoRA are those of PEFT, without dropout. Every method has "
    "as many parameters as LoRA at rank r.",
    "memory": "*Saved* is how many bytes are kept for the backward pass. *Peak* is the most that torch had allocated "
    "at any moment of the forward and backward pass, without parameters and inputs. Both are counts, the same in "
    "every run.",
    "merging": "A merge adds one update to a weight in place. `W += D` adds a matrix of the same size that is there "
    "already. A restart merges every adapted layer, changes its grouping and clears its optimizer state. A restart is "
    "compared with reading and writing all weights of the model once.",
    "steps": "A step is the forward pass, the backward pass, clipping and AdamW. All seven projections are adapted; "
    "there is no dropout. *Composed plainly* is how the authors' code computes: it compresses, multiplies, "
    "decompresses and adds one after the other, and each result has memory of its own.",
    "league": "Every method of `conf/method` that has an adapter, at the budget of LoRA at rank r, adapted as run.py "
    "does it. All numbers are ratios: 1 is LoRA. *Layer* is the forward and backward pass of one linear layer, for "
    "1,024 tokens, with the time of the frozen layer. *Saved* is how many bytes this layer keeps for the backward "
    "pass. *Step* and *peak* are the time and the most memory of a whole training step, without parameters.",
    "harness": "The UUID task on the model `tiny`, whose step is the shortest, so that the overhead of run.py weighs "
    "most. The bare loop computes the same batch again and again. Neither side measures the curve or writes "
    "checkpoints.",
    "startup": "The time of a whole process, from its start to its end.",
    "generation": "Greedy generation after prompts of 38 tokens; the adapters are not merged.",
    "growth": "The seconds are processor time. The records are those of this project, archived ones too, at seven "
    "learning rates and with many seeds. MB is the size of the records that are read, or of the page that is written. "
    "`json.loads` reads the same records as JSON and does nothing else. The cells of the sweep choose one of two "
    "methods and differ in their seeds. run.py composes and checks all cells before the first one runs, and composes "
    "each cell once more when the cell runs.",
}


def render(measured: dict[str, Any]) -> str:
    """The page, from the content of the JSON file."""
    parts = measured["parts"]
    sections = [INTRODUCTION, "## Targets\n", targets(parts)]
    for name, title in TITLES.items():
        if name in parts:
            sections += [f"\n## {title}\n", f"{NOTES[name]}\n", made_on(parts[name]), table(TABLES[name], parts[name])]
    return "\n".join(sections) + "\n"


def targets(parts: dict[str, Any]) -> str:
    """A row for each target, and below the table why each missed target is missed."""
    rows, reasons = [], []
    for target in TARGETS:
        part = parts.get(target.part)
        worst = target.worst(part["rows"]) if part else None
        limit = f"{'at most' if target.at_most else 'at least'} {target.limit:g}{target.unit}"
        if part is None or worst is None:
            rows.append([target.what, limit, "-", "-", "-", "-", "not measured"])
            continue
        row, value = worst
        met = target.met(value["value"])
        shown = [f"{value['value']:.3f}{target.unit}", spread(value), number(value.get("of_minima"))]
        rows.append([target.what, limit, *shown, where(row), "met" if met else "**not met**"])
        if not met:
            reasons.append(reason(target, part))
    heads = ("what", "target", "measured, worst case", "quartiles", "of minima", "case", "")
    return "\n".join([markdown(heads, rows), *(["", "Not met:", "", *reasons] if reasons else [])])


def reason(target: Target, part: dict[str, Any]) -> str:
    """Why a target is missed: what profiling shows, and whether the machine was busy."""
    load, cores = part["load_average"][0], part["cores"]
    missed = [where(row) for row in part["rows"] if (v := target.pick(row)) and not target.met(v["value"])]
    busy = f" The machine was busy: a load of {load:.1f} on {cores} cores at the start." if load > cores + 0.5 else ""
    return f"* {target.what} ({'; '.join(missed)}). {target.reason or 'The cause is not known.'}{busy}"


def made_on(part: dict[str, Any]) -> str:
    """When, on which machine and with which versions a part was measured, in a line."""
    p = part["provenance"]
    hardware, packages, commit = p["hardware"], p["packages"], p["code"]["commit"]
    changed = ", changed since" if p["code"]["dirty"] else ""
    quick = ", `--quick`" if part["quick"] else ""
    return (
        f"{p['started_at']}, {part['seconds']:.0f} s{quick}; {hardware['processor']}, {part['cores']} cores, "
        f"{hardware['threads']} threads of torch, load average {part['load_average'][0]:.1f} at the start; "
        f"Python {p['python']}, torch {packages.get('torch')}, peft {packages.get('peft')}, "
        f"transformers {packages.get('transformers')}; commit {(commit or 'unknown')[:10]}{changed}.\n"
    )


Columns = tuple[tuple[str, Any], ...]


def shape(row: Row) -> str:
    return f"{row['in']} x {row['out']}"


def where(row: Row) -> str:
    """The case of a row in words."""
    parts = [shape(row)] if "in" in row else []
    parts += [str(row[name]) for name in ("model", "command") if name in row]
    parts += [f"r = {row['r']}"] if "r" in row else []
    parts += [str(row[name]) for name in ("operator", "method") if name in row]
    return ", ".join(parts)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def spread(value: dict[str, float] | None) -> str:
    return f"{value['q1']:.2f} - {value['q3']:.2f}" if value and "q1" in value else "-"


def overhead(row: Row) -> str:
    return f"{100 * (row['against_frozen']['value'] - 1):.1f} %" if "against_frozen" in row else "-"


def milliseconds(row: Row) -> str:
    time = row["time"]
    return f"{time['median'] * 1e3:.4g} ({time['q1'] * 1e3:.4g} - {time['q3'] * 1e3:.4g})"


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f}"


def quotient(name: str, head: str) -> Columns:
    """The columns of a ratio: the ratio of the medians, its quartiles, the ratio of the minima."""
    return (
        (head, lambda row: number(row.get(name, {}).get("value"))),
        ("quartiles", lambda row: spread(row.get(name))),
        ("of minima", lambda row: number(row.get(name, {}).get("of_minima"))),
    )


TIME = (("ms (quartiles)", milliseconds), ("rounds", lambda row: row["time"]["rounds"]))
RANK = ("r", lambda row: row["r"])
TABLES: dict[str, Columns] = {
    "linear": (
        ("in x out", shape),
        RANK,
        ("method", lambda row: row["method"]),
        *TIME,
        ("overhead", overhead),
        *quotient("against_lora", "against LoRA's"),
    ),
    "memory": (
        ("in x out", shape),
        RANK,
        ("method", lambda row: row["method"]),
        ("saved, MiB", lambda row: mebibytes(row["saved"])),
        ("against LoRA's", lambda row: number(row.get("against_lora", {}).get("value"))),
        ("peak, MiB", lambda row: mebibytes(row["peak"])),
    ),
    "merging": (
        ("", lambda row: f"{row['what']}, {shape(row) if 'in' in row else row['model']}"),
        RANK,
        ("operator", lambda row: row["operator"]),
        *TIME,
        *quotient("ratio", "ratio"),
    ),
    "steps": (
        ("model", lambda row: row["model"]),
        RANK,
        ("operator", lambda row: row["operator"]),
        ("tokens", lambda row: row["tokens"]),
        ("method", lambda row: row["method"]),
        *TIME,
        *quotient("ratio", "against LoRA"),
        ("peak, MiB", lambda row: mebibytes(row["peak"])),
    ),
    "league": (
        ("method", lambda row: row["method"]),
        ("parameters", lambda row: number(row.get("parameters", {}).get("value"))),
        *quotient("linear", "layer"),
        ("saved", lambda row: number(row.get("saved", {}).get("value"))),
        *quotient("step", "step"),
        ("peak", lambda row: number(row.get("peak", {}).get("value"))),
        ("", lambda row: row.get("refused", "")),
    ),
    "harness": (
        ("method", lambda row: row["method"]),
        ("loop", lambda row: row["loop"]),
        ("tokens a second", lambda row: f"{row['tokens_per_second']:,.0f}"),
        ("segments", lambda row: row["time"]["rounds"]),
        *quotient("ratio", "speed against the bare loop's"),
    ),
    "startup": (
        ("command", lambda row: row["command"]),
        ("s", lambda row: number(row["time"]["median"])),
        ("quartiles", lambda row: spread(row["time"])),
        ("fastest", lambda row: number(row["time"]["min"])),
        ("rounds", lambda row: row["time"]["rounds"]),
    ),
    "generation": (
        ("model", lambda row: row["model"]),
        ("prompts x new tokens", lambda row: f"{row['prompts']} x {row['new_tokens']}"),
        ("way", lambda row: row["way"]),
        ("tokens a second", lambda row: f"{row['tokens_per_second']:,.0f}"),
        ("rounds", lambda row: row["time"]["rounds"]),
        *quotient("ratio", "speed against one by one"),
    ),
    "growth": (
        ("command", lambda row: row["command"]),
        ("of", lambda row: row["of"]),
        ("s", lambda row: f"{row['seconds']:.3g}"),
        ("MB", lambda row: f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else "-"),
        ("against Hydra alone", lambda row: number(row.get("ratio", {}).get("value"))),
    ),
}


def table(columns: Columns, part: dict[str, Any]) -> str:
    return markdown([head for head, _ in columns], [[show(row) for _, show in columns] for row in part["rows"]])


def markdown(heads: Any, rows: list[list[Any]]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
