"""The figures: every line has its label, and labels do not overlap."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.paper import Cell
from experiments.report import figures, plots
from experiments.spec import methods
from experiments.study import study_file
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")
LONG = ["LoRA", "LoRA, alpha = 2 r"]  # a row with a long label, which takes room from the panel


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.08))
def test_labels_keep_their_distance_and_the_order_of_the_lines(heights, gap):
    moved = plots.spread(heights, gap)
    by_height = sorted(zip(heights, moved, strict=True))
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(sorted(moved)))
    assert all(m <= 1 for m in moved)
    assert all(low <= high for (a, low), (b, high) in itertools.pairwise(by_height) if a < b)


def test_labels_with_room_stand_at_the_ends_of_their_lines():
    assert plots.spread([0.9, 0.1, 0.5], 0.05) == [0.9, 0.1, 0.5]
    assert plots.spread([1.0, 1.0], 0.1) == pytest.approx([1.0, 0.9])


@pytest.mark.parametrize(("scale", "height"), [("linear", 0.09), ("log", 0.5)])
def test_a_label_stands_at_the_height_of_its_point_on_any_axis(scale, height):
    _, (axes,) = plots.canvas(1)
    axes.set(yscale=scale, ylim=(0.01, 1))
    plots.label_ends(axes, [(0.1, "row", plots.look(0))])
    assert axes.texts[0].get_position()[1] == pytest.approx(height, abs=0.01)


def test_scores_that_are_close_keep_their_values_at_the_ticks():
    with plots.style():
        figure, (axes,) = plots.canvas(1)
        axes.plot([0, 1], [99.98, 100.0])
        figure.draw_without_rendering()
    assert not axes.yaxis.get_offset_text().get_text()


def test_each_line_has_its_label_at_its_end():
    records = synthetic.small_set(FIXED)
    with plots.style():
        drawn = figures.training_curves(study_file.get("figure1"), Results("laptop", records, FIXED))
    paper, ours = ([text.get_text() for text in axes.texts] for axes in drawn.axes)
    assert paper == ["FFT", "LoRA, r = 8", "MoRA, r = 8", "LoRA, r = 256", "MoRA, r = 256"]
    assert [text.partition(" (")[0] for text in ours][: len(paper)] == paper
    assert "not run: " in drawn.axes[1].get_xlabel()


def test_a_row_without_training_has_no_curve_and_counts_as_run():
    study = study_file.get("table6")
    cells = {row.family: study.cell(row, study.columns[0]) for row in study.rows}
    untrained = synthetic.record(FIXED.setting(cells["base model, untrained"]), 1e-3, 0)
    untrained.metrics["curve"] = []
    records = [untrained, *synthetic.searched(FIXED.setting(cells["LoRA"]), (0,))]
    with plots.style():
        drawn = figures.training_curves(study, Results("laptop", records, FIXED))
    notes = drawn.axes[-1].get_xlabel().replace(figures.BOUND, " = ").split("\n")
    assert "no curve: base model, untrained" in notes
    assert any(note.startswith("not run: FFT") for note in notes)
    assert not any("base model" in note for note in notes if note.startswith("not run"))


def test_a_method_has_the_same_colour_in_every_figure():
    results = Results("laptop", synthetic.small_set(FIXED), FIXED)
    _, cells = figures.groups(study_file.get("table2"), results)["table2"]
    expected = {label: plots.looks_of([f.cell for _, f in cells])[i]["color"] for i, (label, _) in enumerate(cells)}
    assert expected["FFT"] == plots.look(methods.looks("fft")["any"])["color"]
    for draw in (figures.rate_search, figures.score_against_cost):
        with plots.style():
            handles, labels = draw("uuid", cells, "laptop").axes[0].get_legend_handles_labels()
        lines = [handle.lines[0] if hasattr(handle, "lines") else handle for handle in handles]
        shown = {label: line.get_color() for line, label in zip(lines, labels, strict=True) if label in expected}
        assert shown == {label: colour for label, colour in expected.items() if label in shown}
        assert len(shown) > 2


@pytest.mark.parametrize(("name", "rows"), [("figure1", ["LoRA"]), ("figure4", ["LoRA"]), ("figure4", LONG)])
def test_the_rows_without_runs_are_named_within_the_figure(name, rows):
    study = study_file.get(name)
    cells = {study.cell(row, study.columns[0]) for row in study.rows if row.family in rows}
    records = [record for cell in cells for record in synthetic.searched(FIXED.setting(cell), (0,))]
    with plots.style():
        drawn = figures.training_curves(study, Results("laptop", records, FIXED))
        drawn.canvas.draw()
        note = drawn.axes[-1].xaxis.label
        box = note.get_window_extent()
    assert "not run: " in note.get_text()
    bound = note.get_text().count(figures.BOUND)  # "r = 256" stands whole on its line
    assert bound == note.get_text().count("=") > 0
    assert drawn.bbox.x0 <= box.x0 < box.x1 <= drawn.bbox.x1


def test_a_method_has_one_colour_in_figures_of_some_and_of_all_rows():
    study = study_file.get("figure4")
    cells = [study.cell(row, study.columns[0]) for row in study.at("laptop").rows]
    looks = dict(zip(cells, plots.looks_of(cells), strict=True))
    assert len({repr(look) for look in looks.values()}) == len(cells)
    some = [cell for cell in cells if not cell.options]
    assert plots.looks_of(some) == [looks[cell] for cell in some]
    colours = {cell.method: look["color"] for cell, look in zip(some, plots.looks_of(some), strict=True)}
    assert len(set(colours.values())) == len(some)
    assert all(look["color"] == colours[cell.method] for cell, look in looks.items())


@pytest.mark.parametrize(
    "cells",
    [
        [Cell("uuid", method, 8) for method in ("vera", "oft", "hira")],  # whose files name no look
        [Cell("uuid", "lora", options=(f"method.rank={rank}",)) for rank in (4, 8, 16)],
        [Cell("uuid", "mora", 8, operator) for operator in ("sharing", "rotation", "truncation")],
    ],
)
def test_series_that_would_look_the_same_differ_by_their_places(cells):
    assert plots.looks_of(cells) == [plots.look(i) for i in range(3)]


@pytest.mark.parametrize(
    ("task", "metric", "fft", "scale"),
    [
        ("pretrain", "perplexity", 700.0, "log"),
        ("pretrain", "perplexity", 20.0, "linear"),
        ("uuid", "char_accuracy", 0.5, "linear"),
    ],
)
def test_one_far_perplexity_does_not_press_the_others_together(task, metric, fft, scale):
    records = []
    for method in ("fft", "lora", "mora"):
        for record in synthetic.searched(FIXED.setting(Cell(task, method)), (0,)):
            record.metrics["final"][metric] = fft if method == "fft" else 15.0
            records.append(record)
    results = Results("laptop", records, FIXED)
    cells = [(method, results.cell(Cell(task, method))) for method in ("fft", "lora", "mora")]
    with plots.style():
        drawn = figures.score_against_cost(task, cells, "laptop")
    assert [axes.get_yscale() for axes in drawn.axes] == [scale, scale]
    assert drawn.axes[1].get_xscale() == "linear"


@pytest.mark.parametrize(
    ("accuracies", "label"),
    [((100.0, 100.0, 100.0, 99.0), "loss on values"), ((100.0, 100.0, 98.0, 99.0), "character accuracy")],
)
def test_scores_that_are_all_at_their_ceiling_are_not_drawn(accuracies, label):
    """Where most rows have 100 %, the loss on values tells them apart."""
    methods = ("lora", "mora", "dora", "miss")
    records = []
    for i, (method, accuracy) in enumerate(zip(methods, accuracies, strict=True)):
        finals = {"char_accuracy": accuracy, "value_loss": 0.1 + i / 100}
        records += synthetic.measured(FIXED.setting(Cell("uuid", method, 8)), [finals])
    results = Results("laptop", records, FIXED)
    cells = [(method, results.cell(Cell("uuid", method, 8))) for method in methods]
    with plots.style():
        drawn = figures.score_against_cost("uuid", cells, "laptop")
    assert label in drawn.axes[0].get_ylabel()


def test_a_long_label_leaves_room_for_the_panel():
    label = f"MoRA, r = 8, target_modules = {['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj']} (n = 2)"
    with plots.style():
        figure, (axes,) = plots.canvas(1, height=4.0, width=7.0)
        axes.plot([0, 1], [0, 1], label=label)
        plots.label_ends(axes, [(1.0, label, plots.look(0))])
        plots.legend_below(figure, axes, 1)
        drawn = plots.svg_element(figure, "long")  # matplotlib warns where no room is left
    assert axes.get_position().width > 0.3
    (shown,) = {axes.texts[0].get_text(), figure.legends[0].get_texts()[0].get_text()}
    assert shown.startswith("MoRA, r = 8, target_modules = [")
    assert shown.endswith("'up_proj'] (n = 2)")
    assert len(shown) <= plots.LABEL_WIDTH
    assert "svg" in drawn


def spectra(rows, kind):
    """A study of so many rows, in whose records a kind of weight has this name, and its results."""
    study = study_file.of_entries(
        "own",
        {
            "base": {"task": "uuid"},
            "rows": {f"alpha {i}": {"method": "lora", "method.peft.lora_alpha": i} for i in range(1, rows + 1)},
            "ranks": ["r8"],
            "columns": {"char_accuracy": {}},
            "figures": ["curves", "spectrum"],
        },
    )
    records = []
    for row in study.rows:
        for record in synthetic.searched(FIXED.setting(study.cell(row, study.columns[0])), (0,)):
            record.metrics["spectrum"] = {kind: {"above": 3, "layers": 1}}
            records.append(record)
    return study, Results("laptop", records, FIXED)


@pytest.mark.parametrize(("rows", "kind"), [(2, "o_" + 3000 * "9"), (60, "q_proj")])
def test_long_names_and_many_rows_leave_room_for_the_panels(rows, kind):
    study, results = spectra(rows, kind)
    with plots.style():
        drawn = {name: figure for name, figure in figures.figures_of(study, results) if figure}
        for name, figure in drawn.items():
            plots.svg_element(figure, name)  # matplotlib warns where no room is left
            assert all(axes.get_position().height > 0.3 for axes in figure.axes), name
            assert all(axes.get_position().width > 0.3 for axes in figure.axes), name
    assert {"curves_own", "spectrum_own"} <= drawn.keys()


def test_long_names_of_rows_that_were_not_run_leave_room_for_the_panel():
    rows = {"LoRA": {"method": "lora"}}
    rows |= {f"MoRA, {i} %{' of its inputs' * 40}": {"method": "mora", "method.dropout": i / 100} for i in range(1, 9)}
    entries = {"title": "Dropout", "base": {"task": "uuid"}, "rows": rows, "ranks": ["r8"], "figures": ["curves"]}
    study = study_file.of_entries("dropout", entries | {"columns": ["char_accuracy"], "reference": "LoRA"})
    (lora, *_) = study.cells("laptop")
    results = Results("laptop", synthetic.searched(FIXED.setting(lora), (0,)), FIXED)
    with plots.style():
        drawn = figures.training_curves(study, results)
        plots.svg_element(drawn, "rows")  # matplotlib warns where no room is left
    assert "not run: MoRA" in drawn.axes[-1].get_xlabel()


def test_a_label_is_no_formula():
    """matplotlib would end with an error at a label such as this, and take `$1 and $2` for a formula."""
    with plots.style():
        figure, (axes,) = plots.canvas(1)
        axes.plot([0, 1], label="cost $\\bad{$ x")
        plots.legend_below(figure, axes, 1)
        assert "bad" in plots.svg_element(figure, "label")


@pytest.mark.parametrize("panels", [1, 2])
def test_a_long_title_stays_within_its_figure(panels):
    with plots.style():
        figure, _ = plots.canvas(panels)
        plots.title(
            figure, "Every method at the parameters of LoRA, loss on values, nats a token, scale laptop (± 1 sd)\nB"
        )
        figure.draw_without_rendering()
        (text,) = figure.texts
        box = text.get_window_extent()
    assert text.get_text().count("\n") == 3 - panels
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_small_numbers_of_an_axis_have_no_prefix():
    """`5 m` could be five millions."""
    with plots.style():
        _, (axes,) = plots.canvas(1)
        plots.log_axis(axes.yaxis, 0.004, 0.04)
        plots.log_axis(axes.xaxis, 4000, 40000)
        assert axes.yaxis.get_major_formatter()(0.005, 0) == "0.005"
        assert axes.xaxis.get_major_formatter()(5000, 0) == "5 k"
