"""The HTML page: its content, that no text of a record becomes markup, and its behaviour in a browser."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from experiments.report import figures, html, html_data, plots
from experiments.study import study_file
from experiments.study.fill import Results

from .. import synthetic
from ..conftest import ROOT
from .browser import Browser

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def hostile():
    """The small set, where every text of one run would be markup if it were not escaped."""
    protocols = synthetic.FixedProtocols("laptop")
    records = synthetic.small_set(protocols)
    records = [
        dataclasses.replace(
            r,
            name=EVIL,
            cell=r.cell | {"model": EVIL},
            error={"type": EVIL, "message": EVIL + "</script>"},
            provenance=r.provenance | {EVIL: EVIL},
            config=r.config | {EVIL: {"</script>": EVIL}},
            metrics=r.metrics | {"final": r.metrics["final"] | {EVIL: 1.0}},
        )
        if (r.cell["task"], r.cell["method"], r.cell["seed"]) == ("uuid", "fft", 0)
        else r
        for r in records
    ]
    results = Results("laptop", records, protocols)
    other = Results("smoke", records, synthetic.FixedProtocols("smoke"))
    return records, [results, other]


def sections(all_results):
    """The studies of the paper at each scale, those without runs too."""
    return [(results, [study_file.get(name) for name in study_file.names()]) for results in all_results]


@pytest.fixture(scope="module")
def page(hostile):
    return html.page(hostile[0], sections(hostile[1]), problems=[f"{EVIL}.json is not a readable record"])


def test_same_records_same_bytes(hostile, page):
    records, all_results = hostile
    fresh = [Results(r.scale, records, r.protocols) for r in all_results]
    assert html.page(records, sections(fresh), problems=[f"{EVIL}.json is not a readable record"]) == page


def test_text_of_records_is_escaped(page):
    assert "<img" not in page
    assert "alert(1)</script>" not in page
    assert len(re.findall("<script", page)) == 2


def test_needs_no_network(page):
    attributes: list[str] = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag, attrs):
            attributes.extend(name for name, _ in attrs)

    Elements().feed(page)
    assert "data-runs" in attributes
    assert not {"src", "href", "srcset", "action"} & set(attributes)
    assert "default-src 'none'" in page
    assert not re.findall(r"https?://[\w./]+", page)


def test_data_is_whole(page, hostile):
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    packed = [dict(zip(data["fields"], values, strict=True)) for values in data["records"]]
    assert [r["key"] for r in packed] == [r.key for r in hostile[0]]
    evil = next(r for r in packed if r["name"] == EVIL)
    assert data["sections"][data["sections"][evil["provenance"]][EVIL]] == EVIL
    for record, values in zip(hostile[0], packed, strict=True):
        names, *numbers = values["final"]
        assert dict(zip(data["sections"][names], numbers, strict=True)) == pytest.approx(record.metrics["final"], 1e-5)
        assert data["sections"][values["cell"]] | {k: values[k] for k in ("learning_rate", "seed")} == record.cell


def test_the_committed_page_is_small():
    committed = ROOT / "results" / "report.html"
    if not committed.exists():
        pytest.skip("no page is committed")
    assert committed.stat().st_size < 3_000_000


def test_a_further_run_of_a_cell_makes_the_page_little_longer(small):
    """A page of 5,000 runs has at most 3 MB."""
    run = small.records[0]

    def size(count):
        runs = [dataclasses.replace(run, key=f"{i:016x}", cell=run.cell | {"seed": i}) for i in range(count)]
        return len(html_data.script_json(html_data.pack(runs)))

    assert (size(100) - size(50)) / 50 < 500


def test_figures_do_not_share_ids(page):
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([\w.-]+)', page)) <= set(ids)


def test_figures_are_those_of_the_files(page, small):
    with plots.style():
        element = plots.svg_element(figures.training_curves(study_file.get("figure4"), small), "laptop-figure4")
    assert element in page


def test_a_figure_of_the_page_draws_what_its_file_draws(small):
    """The page has text where the file defines and uses the outlines of letters, by the name of the font."""
    with plots.style():
        figure, again = (figures.training_curves(study_file.get("figure4"), small) for _ in range(2))
        file, element = plots.svg(figure).decode(), plots.svg_element(again, "figure4")
    file = re.sub(r'<(path|use)[^>]*"#?DejaVuSans-[^>]*>', "", file)
    shapes = re.compile(r"<(?:path|use)[^>]*>")
    drawing = re.compile(r' (d|x|y|style|transform)="([^"]*)"')
    drawn, filed = (str([drawing.findall(tag) for tag in shapes.findall(svg)]) for svg in (element, file))
    number = re.compile(r"-?\d+\.\d+")
    assert len(drawn) > 500
    assert number.sub("", drawn) == number.sub("", filed)
    numbers = zip(number.findall(drawn), number.findall(filed), strict=True)
    assert all(abs(float(a) - float(b)) < 0.01 for a, b in numbers)
    assert "Pretraining: training loss (Figure 4)" in re.sub("<[^>]*>", "", element)
    ids = re.findall(r' id="([^"]*)"', element)
    assert set(ids) == set(re.findall(r'(?:url\(|href=")#([\w.-]+)', element))


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    (folder / "report.html").write_text(page)
    session = Browser(folder / "profile")
    session.open(folder / "report.html")
    yield session
    session.close()


def column(browser, table, index):
    script = (
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(r => r.cells[arguments[1]].textContent)"
    )
    return browser.run(script, table, index)


def test_renders_without_errors(browser):
    assert browser.run("return document.querySelectorAll('.page.shown .results').length") == 9
    assert browser.run("return document.querySelectorAll('.page.shown figure > svg').length") == 6
    assert browser.console() == []


def test_sorting(browser):
    header = "#table2-laptop thead tr:nth-child(2) th:nth-child(2)"
    before = column(browser, "#table2-laptop", 0)

    def shown() -> list[float]:
        return [float(v.split(" ")[0]) for v in column(browser, "#table2-laptop", 2) if v != "—"]

    browser.click(header)
    assert shown() == sorted(shown())
    browser.click(header)
    assert shown() == sorted(shown(), reverse=True)
    assert sorted(column(browser, "#table2-laptop", 0)) == sorted(before)
    assert browser.run("return document.querySelector(arguments[0]).getAttribute('aria-sort')", header) == "descending"


def test_sorting_keeps_what_was_not_run_at_the_end(browser):
    header = "#table3-laptop thead tr:nth-child(2) th:nth-child(2)"
    for _ in range(2):
        browser.click(header)
        assert column(browser, "#table3-laptop", 2)[-1] == "—"


def test_filter(browser):
    script = """const box = document.getElementById('filter'); box.value = arguments[0];
    box.dispatchEvent(new Event('input'));
    const rows = [...document.querySelectorAll('#table2-laptop tbody tr')].filter(r => !r.hidden);
    return rows.map(r => r.cells[0].textContent)"""
    assert sorted(browser.run(script, "lora r = 8")) == ["LoRA, r = 8"]
    assert len(browser.run(script, "")) == 7


def test_provenance_of_a_cell(browser):
    browser.run("document.querySelector('#table2-laptop tbody tr').scrollIntoView({block: 'center'})")
    rows = "[...document.querySelectorAll('#table2-laptop tbody tr')]"
    browser.run(f"{rows}.find(r => r.cells[0].textContent === 'FFT').id = 'fft'")
    browser.click("#fft td:nth-child(3) button")
    assert browser.run("return document.getElementById('provenance').open")
    assert "FFT" in browser.run("return document.getElementById('provenance-title').textContent")
    assert browser.run("return document.querySelectorAll('#provenance .run').length") == 5
    browser.click("#provenance .run summary")
    for _ in range(20):
        text = browser.run("return document.querySelector('#provenance .run').textContent")
        if "configuration" in text:
            break
    assert "0123abc" in text
    assert EVIL in text
    assert browser.run("return document.querySelectorAll('#provenance img, #provenance script').length") == 0
    browser.click("#provenance form button")
    assert browser.console() == []


def test_missing_cell_says_how_to_fill_it(browser):
    browser.click("#table6-laptop tbody tr:nth-child(2) td:nth-child(3) button")
    text = browser.run("return document.getElementById('provenance-body').textContent")
    assert "python run.py method=fft task=biomed scale=laptop" in text
    browser.click("#provenance form button")


def test_scales_are_apart(browser):
    browser.click("button.scale[data-scale=smoke]")
    assert browser.run("return [...document.querySelectorAll('.page.shown')].map(p => p.dataset.scale)") == ["smoke"]
    assert set(column(browser, "#table2-smoke", 2)) == {"—"}
    browser.click("button.scale[data-scale=laptop]")
    assert browser.console() == []


# The lowest contrast of a text with what is behind the text, as WCAG 2.2 defines contrast, and that text.
CONTRAST = """
const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = colour => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, share, below) => [0, 1, 2].map(i => top[i] * share + below[i] * (1 - share));
const behind = element => {
  if (!element) return rgba(getComputedStyle(document.querySelector('nav')).backgroundColor);  // that of the page
  const own = rgba(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, own[3], behind(element.parentElement));
};
const light = colour => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
  const c = colour[i] / 255;
  return sum + weight * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
}, 0);
let lowest = [100, ''];
for (const element of document.querySelectorAll('.page.shown *, nav *, header *, h1, body > p')) {
  const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join('');
  if (!text || element.closest('svg, script, style') || !element.checkVisibility()) continue;
  let opacity = 1;
  for (let e = element; e; e = e.parentElement) opacity *= getComputedStyle(e).opacity;
  const ground = behind(element), colour = rgba(getComputedStyle(element).color);
  const both = [light(over(colour, opacity * colour[3], ground)), light(ground)].sort((a, b) => b - a);
  const contrast = (both[0] + 0.05) / (both[1] + 0.05);
  if (contrast < lowest[0]) lowest = [contrast, text];
}
return lowest;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 768, 390])
def test_fits_and_can_be_read_at_each_width_and_in_each_scheme(browser, width, scheme):
    browser.emulate(width, scheme)
    assert browser.run("return [innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [
        width,
        scheme == "dark",
    ]
    assert browser.run("return document.scrollingElement.scrollWidth") <= width
    contrast, text = browser.run(CONTRAST)
    assert 4.5 <= contrast < 22, text  # 4.5 is WCAG's lowest contrast for text of this size, 21 is black on white
    assert browser.console() == []


def test_fits_a_phone(page, tmp_path):
    (tmp_path / "report.html").write_text(page)
    phone = Browser(tmp_path / "profile", 390, 844)
    try:
        phone.open(tmp_path / "report.html")
        assert phone.run("return innerWidth") == 390
        assert phone.run("return document.scrollingElement.scrollWidth") <= 390
        phone.click("#table2-laptop tbody tr td:nth-child(3) button")
        width = phone.run("return document.getElementById('provenance').getBoundingClientRect().right")
        assert width <= 390
        assert phone.console() == []
    finally:
        phone.close()
