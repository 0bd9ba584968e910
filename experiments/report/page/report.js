"use strict";
// Everything shown comes from the records, so it is only ever set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, root = document) => [...root.querySelectorAll(selector)];
const HUES = ["currentColor", "#c1440e", "#1f77c4", "#e39a3b", "#7a3e9d", "#3b9a4d", "#888888", "#c03a80"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 4", "6 2 1 2"];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const short = (v) => typeof v === "number" ? String(Number(v.toPrecision(5))) : v === null || v === undefined ? "—" : String(v);

// Scales -------------------------------------------------------------------------------------------------------------

function show(scale) {
  for (const page of $(".page")) page.classList.toggle("shown", page.dataset.scale === scale);
  for (const button of $(".scale")) button.setAttribute("aria-pressed", button.dataset.scale === scale);
  const page = $(".page.shown")[0];
  if (page && !page.dataset.drawn) {
    page.dataset.drawn = "yes";
    for (const chart of data.charts[scale]) $(".charts", page)[0].append(draw(chart));
    listRuns(page, scale);
  }
}

// Sorting and filtering ----------------------------------------------------------------------------------------------

const value = (cell) => cell.dataset.value ?? cell.textContent;

function compare(a, b, sign) {
  if (a === b) return 0;
  if (a === "") return 1; // what was not run stays at the end, whichever way is up
  if (b === "") return -1;
  const numeric = Number(a) - Number(b);
  return sign * (Number.isNaN(numeric) ? a.localeCompare(b, "en", { numeric: true }) : numeric);
}

// The index of a header among the cells of a row: the header has two lines, with spans.
function columnOf(header) {
  const rows = [...header.closest("thead").rows];
  const taken = rows.map(() => []);
  for (const [y, row] of rows.entries()) {
    let x = 0;
    for (const cell of row.cells) {
      while (taken[y][x]) x++;
      if (cell === header) return x;
      for (let j = y; j < Math.min(rows.length, y + cell.rowSpan); j++)
        for (let i = x; i < x + cell.colSpan; i++) taken[j][i] = true;
    }
  }
  return -1;
}

function sortBy(header) {
  const table = header.closest("table");
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of $("th[aria-sort]", table)) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const sign = up ? 1 : -1;
  if (table.classList.contains("runs")) return table.sorted(header.dataset.field, sign);
  const index = columnOf(header);
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(value(a.cells[index]), value(b.cells[index]), sign));
  table.tBodies[0].append(...rows);
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of $(".results tbody tr")) {
    const said = row.cells[0].textContent.toLowerCase();
    row.hidden = !words.every((word) => said.includes(word));
  }
  for (const table of $(".runs")) table.filtered?.(words);
}

// All runs -----------------------------------------------------------------------------------------------------------

const FIELDS = {
  name: (r) => r.name, status: (r) => r.diverged ? "diverged" : r.status, task: (r) => r.cell.task, method: (r) => r.cell.method,
  rank: (r) => r.cell.rank, operator: (r) => r.cell.operator, "learning rate": (r) => r.cell.learning_rate, seed: (r) => r.cell.seed,
  model: (r) => r.cell.model, seconds: (r) => r.cost.seconds, parameters: (r) => r.cost.trainable_parameters,
  result: (r) => Object.entries(r.final).map(([k, v]) => `${k} ${short(v)}`).join(", "),
};

function listRuns(page, scale) {
  const table = $(".runs", page)[0], more = $(".more", page)[0];
  for (const name of Object.keys(FIELDS)) table.tHead.rows[0].append(element("th", { "data-sort": "", "data-field": name }, name));
  const all = data.records.map((r, i) => [r, i]).filter(([r]) => r.cell.scale === scale);
  let shown = all, limit = 100;
  const fill = () => {
    table.tBodies[0].replaceChildren(...shown.slice(0, limit).map(([r, i]) => {
      const [first, ...rest] = Object.values(FIELDS).map((get) => short(get(r)));
      const button = element("button", { type: "button", class: "cell", "data-title": r.name, "data-runs": i }, first);
      return element("tr", {}, element("td", {}, button), ...rest.map((text) => element("td", {}, text)));
    }));
    more.hidden = shown.length <= limit;
    more.textContent = `show more (${shown.length - limit} of ${all.length})`;
  };
  table.sorted = (field, sign) => {
    const get = (r) => short(FIELDS[field](r)).replace(/^—$/, "");
    all.sort(([a], [b]) => compare(get(a), get(b), sign));
    shown = all.filter((one) => shown.includes(one));
    fill();
  };
  table.filtered = (words) => {
    shown = all.filter(([r]) => words.every((word) => `${r.name} ${r.cell.method} ${r.cell.model} ${r.status}`.toLowerCase().includes(word)));
    fill();
  };
  more.onclick = () => { limit += 500; fill(); };
  fill();
}

// Charts -------------------------------------------------------------------------------------------------------------

const NARROW = innerWidth < 600; // a phone: fewer units across, so that the text stays readable
const BOX = { width: NARROW ? 360 : 560, height: NARROW ? 260 : 320, left: 52, right: 12, top: 8, bottom: 36 };

function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 4 || 1));
  const wide = [1, 2, 5, 10].map((m) => m * step).find((s) => (high - low) / s <= 6);
  const made = [];
  for (let t = Math.ceil(low / wide) * wide; t <= high + wide * 1e-6; t += wide) made.push(Number(t.toPrecision(10)));
  return made;
}

function frame(root, xs, ys, spec, xticks) {
  const x = (v) => BOX.left + (v - xs[0]) / (xs[1] - xs[0] || 1) * (BOX.width - BOX.left - BOX.right);
  const y = (v) => BOX.height - BOX.bottom - (v - ys[0]) / (ys[1] - ys[0] || 1) * (BOX.height - BOX.top - BOX.bottom);
  for (const t of ticks(...ys)) {
    root.append(svg("line", { x1: BOX.left, x2: BOX.width - BOX.right, y1: y(t), y2: y(t), stroke: "currentColor", opacity: 0.15 }));
    root.append(svg("text", { x: BOX.left - 6, y: y(t) + 4, "text-anchor": "end" }, String(t)));
  }
  for (const [at, text] of xticks(x)) root.append(svg("text", { x: at, y: BOX.height - BOX.bottom + 15, "text-anchor": "middle" }, text));
  root.append(svg("text", { x: BOX.left, y: BOX.height - 4 }, spec.x ?? ""));
  root.append(svg("text", { x: 12, y: BOX.top + 4, transform: `rotate(-90 12 ${BOX.top + 4})`, "text-anchor": "end" }, spec.y));
  return [x, y];
}

function draw(spec) {
  const root = svg("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": spec.title });
  const legend = element("div", { class: "legend" });
  const tip = element("div", { class: "tip" });
  tip.hidden = true;
  const figure = element("figure", {}, element("figcaption", {}, spec.title), root, legend, tip);
  const points = spec.kind === "bars" ? bars(root, legend, spec) : lines(root, legend, spec);
  const hover = (event) => {
    const bounds = root.getBoundingClientRect();
    const at = [(event.clientX - bounds.left) * BOX.width / bounds.width, (event.clientY - bounds.top) * BOX.height / bounds.height];
    let best = null, least = 40 ** 2;
    for (const p of points) {
      const d = (p.x - at[0]) ** 2 + (p.y - at[1]) ** 2;
      if (d < least && !p.group.hasAttribute("hidden")) [best, least] = [p, d];
    }
    tip.hidden = !best;
    if (!best) return;
    tip.textContent = best.text;
    const left = best.x * bounds.width / BOX.width, top = best.y * bounds.height / BOX.height + root.offsetTop;
    tip.style.left = `${Math.max(0, Math.min(left + 8, bounds.width - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, top - 34)}px`;
  };
  root.addEventListener("pointermove", hover);
  root.addEventListener("pointerdown", hover);
  root.addEventListener("pointerleave", () => { tip.hidden = true; });
  return figure;
}

function key(legend, label, i, group) {
  const sample = svg("svg", { width: 26, height: 10, style: "width:26px;display:inline-block" });
  sample.append(svg("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: HUES[i % 8], "stroke-width": 2.5, "stroke-dasharray": DASHES[i % 8] }));
  const button = element("button", { type: "button", "aria-pressed": "true" }, sample, ` ${label}`);
  button.onclick = () => {
    const off = group.toggleAttribute("hidden");
    group.style.display = off ? "none" : "";
    button.setAttribute("aria-pressed", !off);
  };
  legend.append(button);
}

function lines(root, legend, spec) {
  const all = spec.series.flatMap((s) => [...s.ours, ...s.theirs]).filter((p) => p[1] !== null);
  const xs = [Math.min(0, ...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]))];
  const ys = [Math.min(...all.map((p) => p[1] - (p[2] ?? 0))), Math.max(...all.map((p) => p[1] + (p[2] ?? 0)))];
  if (ys[0] === ys[1]) ys.splice(0, 2, ys[0] - (Math.abs(ys[0]) || 1) / 2, ys[1] + (Math.abs(ys[1]) || 1) / 2);
  const [x, y] = frame(root, xs, ys, spec, (at) => ticks(...xs).map((t) => [at(t), String(t)]));
  const points = [];
  for (const [i, s] of spec.series.entries()) {
    const group = svg("g", { stroke: HUES[i % 8], fill: "none" });
    const path = (list) => list.map((p, j) => `${j ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    const band = [...s.ours.map((p) => [p[0], p[1] + (p[2] ?? 0)]), ...s.ours.map((p) => [p[0], p[1] - (p[2] ?? 0)]).reverse()];
    if (s.ours.length) {
      group.append(svg("path", { d: path(band) + "Z", fill: HUES[i % 8], stroke: "none", opacity: 0.15 }));
      group.append(svg("path", { d: path(s.ours), "stroke-width": 2, "stroke-dasharray": DASHES[i % 8] }));
    }
    for (const p of s.theirs) group.append(svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 3.5 }));
    for (const p of s.ours) points.push({ group, x: x(p[0]), y: y(p[1]), text: `${s.label}: ${short(p[1])}${p[2] ? ` ± ${short(p[2])}` : ""} at ${short(p[0])}` });
    for (const p of s.theirs) points.push({ group, x: x(p[0]), y: y(p[1]), text: `paper, ${s.label.replace(/ \(.*/, "")}: ${short(p[1])} at ${short(p[0])}` });
    root.append(group);
    key(legend, s.label, i, group);
  }
  if (spec.series.some((s) => s.theirs.length)) legend.append(element("span", {}, "○ the paper's values"));
  return points;
}

function bars(root, legend, spec) {
  const names = [...new Set(spec.series.flatMap((s) => s.values.map((v) => v[0])))];
  const ys = [0, Math.max(...spec.series.flatMap((s) => s.values.map((v) => v[1] + v[2])))];
  const [x, y] = frame(root, [-0.5, names.length - 0.5], ys, spec, (at) => names.map((n, i) => [at(i), n]));
  const width = 0.8 / spec.series.length, points = [];
  for (const [i, s] of spec.series.entries()) {
    const group = svg("g", { fill: HUES[i % 8] });
    for (const [name, mean, sd] of s.values) {
      const left = names.indexOf(name) - 0.4 + i * width;
      group.append(svg("rect", { x: x(left), y: y(mean), width: x(left + width) - x(left) - 1, height: y(0) - y(mean) }));
      points.push({ group, x: x(left + width / 2), y: y(mean), text: `${s.label}, ${name}: ${short(mean)} ± ${short(sd)}` });
    }
    root.append(group);
    key(legend, s.label, i, group);
  }
  return points;
}

// Provenance ---------------------------------------------------------------------------------------------------------

const expand = (places) => Object.fromEntries(Object.entries(places).map(([name, place]) => [name, data.shared[place]]));
const block = (title, content) => element("details", {}, element("summary", {}, title), element("pre", {}, JSON.stringify(content, null, 1)));

function curveChart(record) {
  return Object.entries(record.curve).map(([name, [steps, values]]) => {
    const ours = values.map((v, i) => [steps[i], v, 0]).filter((p) => p[1] !== null);
    return ours.length > 1 ? draw({ kind: "lines", title: name, x: "step", y: "", series: [{ label: name, ours, theirs: [] }] }) : "";
  });
}

function runDetails(record) {
  const made = element("div", { class: "run" });
  const said = record.diverged ? `${record.status}, diverged` : record.status;
  const open = element("details", {}, element("summary", {}, `seed ${record.cell.seed}, learning rate ${short(record.cell.learning_rate)}: ${said}`));
  open.addEventListener("toggle", () => {
    if (!open.open || made.dataset.drawn) return;
    made.dataset.drawn = "yes";
    open.append(element("p", {}, `${record.name}, runs/${record.key}.json`));
    if (record.error) open.append(element("pre", { class: "error" }, `${record.error.type}: ${record.error.message}`));
    open.append(block("final metrics", record.final), block("cost", record.cost), block("configuration", expand(record.config)));
    open.append(block("code, versions, machine, data", expand(record.provenance)));
    open.append(element("div", { class: "charts" }, ...curveChart(record)));
  });
  made.append(open);
  return made;
}

function provenance(button) {
  const { title, runs, search, against, command } = button.dataset;
  const body = document.getElementById("provenance-body");
  document.getElementById("provenance-title").textContent = title;
  const records = runs.split(" ").filter(Boolean).map((i) => data.records[Number(i)]);
  body.replaceChildren();
  if (search) body.append(element("p", {}, `Learning rate: ${search}`));
  if (against) body.append(element("p", {}, against));
  if (!records.length) body.append(element("p", {}, "Not run. This fills it:"));
  if (command) body.append(element("pre", {}, command));
  body.append(...records.map(runDetails));
  if (records.length === 1) $("details", body)[0].open = true;
  document.getElementById("provenance").showModal();
}

document.addEventListener("click", (event) => {
  const cell = event.target.closest("button.cell"), header = event.target.closest("th[data-sort]"), scale = event.target.closest("button.scale");
  if (cell) provenance(cell);
  else if (header) sortBy(header);
  else if (scale) show(scale.dataset.scale);
});
document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
show($(".scale")[0].dataset.scale);
