"use strict";
// All that this script shows comes from the records. It is set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
// experiments/report/html_data.py says how the records are packed.
const numbers = ([names, ...values]) => Object.fromEntries(data.sections[names].map((name, i) => [name, values[i]]));
data.records = data.records.map((values) => {
  const record = Object.fromEntries(data.fields.map((field, i) => [field, values[i]]));
  const { cell, learning_rate, seed, final, cost, error } = record;
  return { ...record, cell: { ...data.sections[cell], learning_rate, seed }, final: numbers(final), cost: numbers(cost), error: data.sections[error] };
});
const $ = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const short = (v) => typeof v === "number" ? String(Number(v.toPrecision(5))) : v === null || v === undefined ? "—" : String(v);

// Scales -------------------------------------------------------------------------------------------------------------

function show(scale) {
  for (const page of $(".page")) page.classList.toggle("shown", page.dataset.scale === scale);
  for (const button of $(".scale")) button.setAttribute("aria-pressed", button.dataset.scale === scale);
  const page = $(".page.shown")[0];
  if (page && !$(".runs", page)[0].tHead.rows[0].cells.length) listRuns(page, scale);
}

// Sorting and filtering ----------------------------------------------------------------------------------------------

const value = (cell) => cell.dataset.value ?? cell.textContent;

function compare(a, b, sign) {
  if (a === b) return 0;
  if (a === "") return 1; // an empty value stays at the end in both directions
  if (b === "") return -1;
  const numeric = Number(a) - Number(b);
  return sign * (Number.isNaN(numeric) ? a.localeCompare(b, "en", { numeric: true }) : numeric);
}

// The index of the column below a header cell. The header has two rows, and cells that span rows or columns.
function columnOf(header) {
  const rows = [...header.closest("thead").rows];
  const occupied = rows.map(() => []);
  for (const [y, row] of rows.entries()) {
    let x = 0;
    for (const cell of row.cells) {
      while (occupied[y][x]) x++;
      if (cell === header) return x;
      for (let j = y; j < Math.min(rows.length, y + cell.rowSpan); j++)
        for (let i = x; i < x + cell.colSpan; i++) occupied[j][i] = true;
    }
  }
  return -1;
}

function sortBy(header) {
  const table = header.closest("table");
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of $("th[aria-sort]", table)) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const sign = ascending ? 1 : -1;
  if (table.classList.contains("runs")) return table.sorted(header.dataset.field, sign);
  const index = columnOf(header);
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(value(a.cells[index]), value(b.cells[index]), sign));
  table.tBodies[0].append(...rows);
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of $(".results tbody tr")) {
    const label = row.cells[0].textContent.toLowerCase();
    row.hidden = !words.every((word) => label.includes(word));
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
      const button = element("button", { type: "button", class: "cell", "data-title": r.name, "data-record": i }, first);
      return element("tr", {}, element("td", {}, button), ...rest.map((text) => element("td", {}, text)));
    }));
    more.hidden = shown.length <= limit;
    more.textContent = `show more (${shown.length - limit} of ${all.length})`;
  };
  table.sorted = (field, sign) => {
    const get = (r) => short(FIELDS[field](r)).replace(/^—$/, "");
    all.sort(([a], [b]) => compare(get(a), get(b), sign));
    shown = all.filter((entry) => shown.includes(entry));
    fill();
  };
  table.filtered = (words) => {
    shown = all.filter(([r]) => words.every((word) => `${r.name} ${r.cell.method} ${r.cell.model} ${r.status}`.toLowerCase().includes(word)));
    fill();
  };
  more.onclick = () => { limit += 500; fill(); };
  fill();
}

// Provenance ---------------------------------------------------------------------------------------------------------

const expand = (place) => Object.fromEntries(Object.entries(data.sections[place]).map(([name, at]) => [name, data.sections[at]]));
const block = (title, content) => element("details", {}, element("summary", {}, title), element("pre", {}, JSON.stringify(content, null, 1)));

function runDetails(record) {
  const status = record.diverged ? `${record.status}, diverged` : record.status;
  const details = element("details", { class: "run" }, element("summary", {}, `seed ${record.cell.seed}, learning rate ${short(record.cell.learning_rate)}: ${status}`));
  details.append(element("p", {}, `${record.name}; the whole record, with its curves: runs/${record.key}.json`));
  if (record.error) details.append(element("pre", { class: "error" }, `${record.error.type}: ${record.error.message}`));
  details.append(block("final metrics", record.final), block("cost", record.cost), block("configuration", expand(record.config)));
  details.append(block("code, versions, machine, data", expand(record.provenance)));
  return details;
}

function provenance(button) {
  const { title, runs, record, search, difference, command } = button.dataset;
  const body = document.getElementById("provenance-body");
  document.getElementById("provenance-title").textContent = title;
  const records = (record ? [Number(record)] : data.runs[Number(runs)]).map((i) => data.records[i]);
  body.replaceChildren();
  if (search) body.append(element("p", {}, `Learning rate: ${search}`));
  if (difference) body.append(element("p", {}, difference));
  if (command) body.append(element("p", {}, records.length ? "The command of these runs:" : "Not run. The command of this cell:"), element("pre", {}, command));
  body.append(...records.map(runDetails));
  if (records.length === 1) body.lastChild.open = true;
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
