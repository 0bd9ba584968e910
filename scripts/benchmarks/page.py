"""docs/performance.md from the JSON file of a measurement. A test compares the page with the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from . import attempts, stages
from .targets import TARGETS, Row, Target

TITLES = {
    "linear": "One linear layer, forward and backward",
    "memory": "Memory of one linear layer",
    "merging": "Merging and restarting",
    "steps": "A training step",
    "league": "Every method against LoRA",
    "harness": "run.py against a bare loop",
    "stages": "Where the time of a run goes",
    "startup": "Starting",
    "generation": "Generation",
    "growth": "Thousands of records and cells",
}
INTRODUCTION = """# Performance

`python scripts/benchmark.py` measures and writes this page. `python scripts/benchmark.py --render` writes the page
again from `results/benchmark.json` and measures nothing. That file also has the numbers of rounds, and the quartiles of
all times.

What is compared ran in the same process and took turns: each round called each candidate once, and every second round
in the reverse order. A time is the median over the rounds. A ratio is the ratio of two medians. Its quartiles, in
brackets or in a column, are those of the ratios within single rounds, so a ratio can lie outside of its quartiles. "Of
minima" is the ratio of the fastest calls, which other programs disturb least. If the quartiles are far apart, or if "of
minima" or the quartiles are far from the ratio, the machine was busy.
"""
NOTES = {
    "linear": "The forward and the backward pass for 1,024 tokens in float32, with the gradient of the input. The "
    "column of the frozen layer has its time. For each method the table has the time that the adapter adds, in "
    "percent of the time of the frozen layer, and the ratio of this overhead to LoRA's. LoRA and DoRA are those of "
    "PEFT, without dropout. MoRA has as many parameters as LoRA at rank r; DoRA has one more for each output.",
    "memory": "In MiB: the bytes that are kept for the backward pass, then the largest number of bytes that torch had "
    "allocated at any moment of the forward and the backward pass, without parameters and inputs. Both numbers are "
    "counts, the same in every run.",
    "merging": "A merge adds one update to a weight in place; its time is compared with `W += D`, which adds a ready "
    "matrix of the same size. A restart merges every adapted layer, changes its grouping and clears its optimizer "
    "state; its time is compared with reading and writing all weights of the model once.",
    "steps": "A step is the forward pass, the backward pass, clipping and AdamW. All seven projections are adapted, "
    "without dropout. *Composed plainly* is how the authors' code computes: compressing, multiplying, decompressing "
    "and adding are separate operations, and each result takes memory.",
    "league": "Every method of `conf/method` that has an adapter, with the parameters of LoRA at rank 8 as its budget, "
    "and with the settings of run.py on smollm2-135m. DoRA and C3A were measured before the budget counted them as it "
    "does now. All numbers are ratios to LoRA. *Layer* is the time of the forward and the backward pass of one linear "
    "layer (576 inputs, 1,536 outputs), for 1,024 tokens, with the time of the frozen layer. *Saved* is the number of "
    "bytes that this layer keeps for the backward pass. *Step* and *peak* are the time and the largest memory of a "
    "whole training step of 256 tokens, without parameters. AsyLoRA, LoRA+, PiSSA, ReLoRA and rsLoRA compute what "
    "LoRA computes, so the distance of their ratios from 1 shows how exact the measured times are. *Parameters* shows "
    "how much of the budget a method spends.",
    "harness": "The UUID task at laptop scale, on its own model `llama-7m` and on the model `tiny`. The step of `tiny` "
    "is the shortest, so the overhead of run.py weighs most. The bare loop computes the same batch again and again. "
    "Neither run.py nor the bare loop measures the curve or writes checkpoints.",
    "stages": "The run of `make demo`, once, as a process of its own. A stage is the time that the process spends in "
    "some functions, without the time of other stages within these functions. Most of the start imports torch, "
    "transformers and PEFT. PEFT imports bitsandbytes too where it is installed, which takes two seconds.",
    "startup": "The time of a whole process, from its start to its end.",
    "generation": "Greedy generation after prompts of 38 tokens. The adapters are not merged.",
    "growth": "The seconds are processor time. The records are those of this project, archived ones too, at seven "
    "learning rates and with many seeds. MB is the size of the records that are read, or of the page that is written. "
    "`json.loads` reads the same records as JSON and does nothing else. The cells of the sweep choose one of two "
    "methods and differ in their seeds. run.py composes and checks all cells before the first one runs, and composes "
    "each cell once more when the cell runs.",
}


GPU = """
## On a GPU

`make gpu` measures one linear layer in bf16 at 4096 x 4096 and 4096 x 11008, eager and compiled, and the training step
of a LLaMA with 1.3 billion weights. A time is the median between two CUDA events, after the L2 cache was overwritten.
The peak is the memory that a step allocates beside the weights, the adapters and the state of the optimizer.
[cluster.md](cluster.md#on-a-gpu-of-yours) says how to run the command.

`mora.kernels.use_triton()` lets truncation and sharing compute with two Triton kernels on CUDA. One kernel reads the
input once and compresses it. The other kernel decompresses, and reads and writes the output once. The backward pass
uses the same two kernels. In Triton's interpreter the kernels give torch's results, and they compile for a GPU
(`make triton`). The kernels are off by default, because nobody has measured whether they are faster. `make gpu`
measures the kernels beside torch.
"""
NO_GPU = """\
**Nothing was measured on a GPU.** Everything above was measured on a CPU in float32. Not known are: the speed on a GPU,
eager or compiled, against PEFT's LoRA and against the kernels of Liger and Unsloth; the memory on a GPU beside the
estimate of the dry run; the losses in bf16 on a GPU beside those of a CPU; and Table 2 at workstation scale."""


def render(measured: dict[str, Any], cards: Sequence[dict[str, Any]] = ()) -> str:
    """The page.

    Args:
        measured: The content of the JSON file.
        cards: The contents of results/gpu/*.json, one for each GPU.
    """
    parts = measured["parts"]
    sections = [INTRODUCTION, "## Targets\n", targets(parts)]
    for name, title in TITLES.items():
        if name in parts:
            sections += [f"\n## {title}\n", f"{NOTES[name]}\n", made_on(parts[name]), table(TABLES[name], parts[name])]
    sections += ["\n## What was tried\n", f"{attempts.NOTE}\n", markdown(attempts.HEADS, attempts.ATTEMPTS)]
    return "\n".join([*sections, GPU, *(map(gpu, cards) if cards else [NO_GPU])]) + "\n"


def gpu(card: dict[str, Any]) -> str:
    """The section of one GPU: the status of each part, and the tables of what was measured."""
    parts = card["parts"]
    status = [[name, part["status"], len(part["rows"]), part["reason"]] for name, part in parts.items()]
    sections = [f"### {card['card']}\n", markdown(("part", "status", "rows", "reason"), status)]
    for kind, columns in GPU_TABLES.items():
        rows = [r for name, part in parts.items() if name.startswith(kind) for r in part["rows"] if "time" in r]
        if rows:
            sections += ["", markdown([head for head, _ in columns], [[show(r) for _, show in columns] for r in rows])]
    return "\n".join(sections)


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
    changed = " with uncommitted changes" if p["code"]["dirty"] else ""
    quick = ", `--quick`" if part["quick"] else ""
    return (
        f"Measured {p['started_at'][:10]} in {part['seconds']:.0f} s{quick}; "
        f"{hardware['processor']}, {part['cores']} cores, {hardware['threads']} threads of torch, "
        f"load average {part['load_average'][0]:.1f} at the start; "
        f"Python {p['python']}, torch {packages.get('torch')}, peft {packages.get('peft')}, "
        f"transformers {packages.get('transformers')}; commit {(commit or 'unknown')[:10]}{changed}.\n"
    )


Columns = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Wide:
    """A table with a line for each case, and in the line a column for each method.

    Attributes:
        head: The head of the column of the cases.
        case: The case of a row of the measurement.
        method: The method of a row.
        cell: What the table shows of a row.
        has: Whether the table has a row.
    """

    head: str
    case: Callable[[Row], str]
    method: Callable[[Row], str]
    cell: Callable[[Row], str]
    has: Callable[[Row], bool] = lambda row: True

    def markdown(self, rows: list[Row]) -> str:
        """The table of the rows of a measurement; a dash where a case lacks a method."""
        cells: dict[str, dict[str, str]] = {}
        for row in filter(self.has, rows):
            cells.setdefault(self.case(row), {})[self.method(row)] = self.cell(row)
        methods = list(dict.fromkeys(method for line in cells.values() for method in line))
        lines = [[case, *(line.get(method, "-") for method in methods)] for case, line in cells.items()]
        return markdown((self.head, *methods), lines)


def shape(row: Row) -> str:
    return f"{row['in']} x {row['out']}"


def where(row: Row) -> str:
    """The case of a row in words."""
    parts = [shape(row)] if "in" in row else []
    parts += [str(row[name]) for name in ("model", "command", "stage") if name in row]
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


def in_brackets(value: dict[str, float]) -> str:
    """A ratio, and its quartiles in brackets."""
    return f"{number(value['value'])} ({spread(value)})"


def added(row: Row) -> str:
    """What an adapter adds to the time of the frozen layer; of the frozen layer, its time."""
    if "against_frozen" not in row:
        return f"{row['time']['median'] * 1e3:.4g} ms"
    return overhead(row) if row["method"] == "lora" else f"{overhead(row)}; {in_brackets(row['against_lora'])}"


def merged(row: Row) -> str:
    """The time of a merge or a restart, and its ratio to what it is compared with."""
    time = f"{row['time']['median'] * 1e3:.3g} ms"
    return time if row["operator"] in ("W += D", "read and write") else f"{time}; {in_brackets(row['ratio'])}"


def at_rank(row: Row) -> str:
    return f"{shape(row) if 'in' in row else row['model']}, r = {row['r']}"


def quotient(name: str, head: str) -> Columns:
    """The columns of a ratio: the ratio of the medians, its quartiles, the ratio of the minima."""
    return (
        (head, lambda row: number(row.get(name, {}).get("value"))),
        ("quartiles", lambda row: spread(row.get(name))),
        ("of minima", lambda row: number(row.get(name, {}).get("of_minima"))),
    )


TIME = (("ms (quartiles)", milliseconds), ("rounds", lambda row: row["time"]["rounds"]))
RANK = ("r", lambda row: row["r"])
TABLES: dict[str, Columns | tuple[Wide, ...]] = {
    "linear": (Wide("in x out", at_rank, lambda row: row["method"], added),),
    "memory": (
        Wide(
            "in x out",
            at_rank,
            lambda row: row["method"],
            lambda row: f"{mebibytes(row['saved'])}; {mebibytes(row['peak'])}",
        ),
    ),
    "merging": (
        Wide("merge", lambda row: row["operator"], at_rank, merged, lambda row: row["what"] == "merge"),
        Wide("restart", at_rank, lambda row: row["operator"], merged, lambda row: row["what"] == "restart"),
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
        ("model", lambda row: row["model"]),
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
    "stages": (
        ("stage", lambda row: row["stage"]),
        ("s", lambda row: f"{row['seconds']:.1f}"),
        ("of the run", lambda row: f"{100 * row['share']['value']:.1f} %"),
        ("calls", lambda row: row["calls"]),
        ("what happens", lambda row: stages.WORK.get(row["stage"], "")),
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

GPU_TABLES: dict[str, Columns] = {
    "layer": (
        ("in x out", shape),
        RANK,
        ("adapter", lambda row: row["adapter"]),
        ("mode", lambda row: row["mode"]),
        ("method", lambda row: row["method"]),
        *TIME,
        ("overhead", overhead),
        *quotient("against_lora", "against LoRA's"),
    ),
    "step": (
        ("method", lambda row: row["method"]),
        ("kernels", lambda row: row["kernels"]),
        ("tokens", lambda row: row["rows"] * row["length"]),
        *TIME,
        ("tokens a second", lambda row: f"{row['tokens_per_second']:,.0f}"),
        ("peak, MiB", lambda row: mebibytes(row["peak"])),
    ),
}


def table(columns: Columns | tuple[Wide, ...], part: dict[str, Any]) -> str:
    wide = [form.markdown(part["rows"]) for form in columns if isinstance(form, Wide)]
    if wide:
        return "\n\n".join(wide)
    plain: Any = columns
    return markdown([head for head, _ in plain], [[show(row) for _, show in plain] for row in part["rows"]])


def markdown(heads: Any, rows: Sequence[Sequence[Any]]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
