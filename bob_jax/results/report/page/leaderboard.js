"use strict";
// Who is best: the ranking of all settings or of one task or protocol, and every score behind it.

const NAMES = Object.keys(DATA.facts);
const filter = { task: "", protocol: "", name: "", family: "", method: "", licence: "", least: "", most: "" };

function scopeNow() {
  const is = (value, wanted) => (value ?? "") === wanted;
  return DATA.scopes.find((scope) => (filter.protocol ? is(scope.protocol, filter.protocol) : is(scope.task, filter.task) && !scope.protocol));
}

function shown(name) {
  const one = DATA.facts[name];
  const within = (filter.least === "" || (one.parameters ?? -1) >= Number(filter.least)) && (filter.most === "" || (one.parameters ?? Infinity) <= Number(filter.most));
  return within && name.toLowerCase().includes(filter.name.toLowerCase())
    && ["family", "method", "licence"].every((key) => !filter[key] || String(one[key] ?? "unknown") === filter[key]);
}

/** The backbones that have a record in the scope, ranked ones first, with what the table says of them. */
function ranked(scope) {
  const ranking = DATA.rankings[scope.ranking];
  const standings = Object.fromEntries((ranking.standings ?? []).map((one) => [one.backbone, one]));
  const there = new Set(scope.boards.flatMap((i) => DATA.boards[i].rows.map((row) => row.backbone)));
  const order = [...(ranking.standings ?? []).map((one) => one.backbone), ...NAMES.filter((name) => !(name in standings))];
  return order.filter((name) => there.has(name) || scope === DATA.scopes[0]).map((name) => ({ name, standing: standings[name] ?? null, facts: DATA.facts[name] }));
}

function filterForm(update) {
  const form = h("form", { "aria-label": "Filter", onsubmit: (event) => event.preventDefault() });
  const choice = (key, title, values) => h("label", {}, title, h("select", { name: key, onchange: change },
    h("option", { value: "" }, "all"), values.map((value) => h("option", { value, selected: filter[key] === value }, value))));
  const kinds = (key) => [...new Set(NAMES.map((name) => String(DATA.facts[name][key] ?? "unknown")))].sort();
  const number = (key, title) => h("label", {}, title, h("input", { type: "number", min: "0", step: "any", name: key, value: filter[key], oninput: change }));
  const tasks = DATA.scopes.filter((scope) => scope.task && !scope.protocol).map((scope) => scope.task);

  function protocols() {
    const found = DATA.scopes.filter((scope) => scope.protocol && (!filter.task || scope.task === filter.task)).map((scope) => scope.protocol);
    if (!found.includes(filter.protocol)) filter.protocol = "";
    return choice("protocol", "Protocol", found);
  }

  function change(event) {
    filter[event.target.name] = event.target.value;
    if (event.target.name === "task") form.querySelector("[name=protocol]").closest("label").replaceWith(protocols());
    update();
  }

  form.append(choice("task", "Task", tasks), protocols(), choice("family", "Family", kinds("family")), choice("method", "Method", kinds("method")),
    choice("licence", "Licence", kinds("licence")), number("least", "Parameters, M, from"), number("most", "to"),
    h("label", {}, "Name", h("input", { type: "search", name: "name", value: filter.name, oninput: change })),
    h("button", { type: "button", onclick: () => {
      Object.keys(filter).forEach((key) => { filter[key] = ""; });
      form.replaceWith(filterForm(update));
      update();
    } }, "Clear"));
  return form;
}

function leaderboard() {
  const place = h("div"), count = h("p", { class: "muted", role: "status" });
  const update = () => {
    const scope = scopeNow(), rows = ranked(scope), kept = rows.filter((row) => shown(row.name));
    const boards = scope.boards.map((i) => DATA.boards[i]), ranking = DATA.rankings[scope.ranking];
    count.textContent = `${kept.length} of ${rows.length} backbones, ${boards.length} ${boards.length === 1 ? "setting" : "settings"}`
      + (ranking.settings && ranking.settings.length < boards.length ? `, ${ranking.settings.length} of them ranked` : "")
      + (kept.length < rows.length ? "; ranks are among all of them" : "");
    place.replaceChildren(
      ranking.standings ? standingsTable(kept, ranking, rows) : h("p", { class: "bad" }, ranking.why),
      h("ul", { class: "notes" }, (ranking.notes ?? []).map((note) => h("li", {}, note))),
      ranking.csv ? h("p", {}, download(() => ranking.csv, "ranking.csv", "text/csv", "Ranking as CSV")) : "",
      h("h3", { id: "cells" }, "Every score"),
      h("p", { class: "muted" }, "Each leads to its records. Bold: tied with the best of its column. Striped: there is no record."),
      scoresTable(kept, boards));
    document.dispatchEvent(new CustomEvent("scope"));
  };
  const section = h("section", { id: "leaderboard" }, h("h2", {}, "Leaderboard"), filterForm(update), count, place);
  update();
  return section;
}

function standingsTable(kept, ranking, all) {
  const figure = FIGURES[ranking.by];
  const known = all.filter((row) => row.standing).map((row) => row.standing);
  const ends = known.flatMap((one) => [one.figures[ranking.by].low, one.figures[ranking.by].high]);
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  const tasks = [...new Set(known.flatMap((one) => Object.keys(one.tasks)))];
  const of = (row, read) => (row.standing ? read(row.standing) ?? null : null);
  const plain = (title, read, write, options = {}) => ({ title, key: read, cell: (row) => { const x = read(row); return x === null ? "–" : write(x); }, ...options });
  const columns = [
    { title: "Rank", kind: "nowrap", describe: "the ranks it may have", key: (row) => of(row, (one) => one.best * 10000 + one.worst + one.position / 10000),
      cell: (row) => (row.standing ? row.standing.range.replace("-", "–") : h("span", { title: ranking.left_out[row.name] ?? "no record" }, "–")) },
    { title: "Backbone", header: true, key: (row) => row.name, cell: (row) => link("backbone", row.name) },
    { title: figure.title, kind: "nowrap", first: figure.smaller ? "ascending" : "descending", key: (row) => of(row, (one) => one.figures[ranking.by].value),
      cell: (row) => (row.standing ? estimate(row, ranking.by, least, most) : h("span", { class: "reason" }, `left out: ${ranking.left_out[row.name] ?? "no record"}`)) },
    { title: "may rank", kind: "nowrap", optional: true, cell: (row) => (row.standing ? bar(0, known.length, row.standing.best - 1, null, row.standing.worst, "small ranks") : "") },
    plain("params", (row) => row.facts.parameters, millions, { kind: "number" }),
    plain("GFLOPs", (row) => row.facts.flops, (x) => rounded(x / 1e9), { kind: "number", optional: true }),
    plain("images/s", (row) => row.facts.images_per_second, rounded, { kind: "number", optional: true, first: "descending", describe: `on ${DATA.device}` }),
    plain("family", (row) => row.facts.family, String, { optional: true }),
    plain("method", (row) => row.facts.method, String, { optional: true }),
    plain("licence", (row) => row.facts.licence, (x) => h("span", { class: "short", title: x }, x), { optional: true }),
    ...Object.keys(FIGURES).filter((name) => name !== ranking.by).map((name) => plain(FIGURES[name].title, (row) => of(row, (one) => one.figures[name].value), FIGURES[name].write,
      { kind: "number", optional: true, first: FIGURES[name].smaller ? "ascending" : "descending" })),
    ...(tasks.length > 1 ? tasks : []).map((task) => plain(`z ${task}`, (row) => of(row, (one) => one.tasks[task]?.value), (x) => signed(x), { kind: "number", optional: true, first: "descending" })),
  ];
  const table = sortable(columns, kept, {
    id: "ranking", label: "Leaderboard", order: [figure.title, figure.smaller ? "ascending" : "descending"], rowClass: (row) => (row.standing?.best === 1 ? "first" : ""),
    caption: "Point at a row: those that cannot be told apart from it are shaded. Bold: may be first.",
  });
  markTies(table, ranking.tied);
  return table;
}

function estimate(row, name, least, most) {
  const { value, low, high } = row.standing.figures[name], write = FIGURES[name].write;
  const words = { href: `#backbone/${encodeURIComponent(row.name)}`, title: "all its cells" };
  return [bar(least, most, low, value, high), h("a", words, write(value)), " ", h("span", { class: "interval optional" }, `[${write(low)}, ${write(high)}]`)];
}

function markTies(table, tied) {
  const mark = (event) => {
    const name = event.target.closest("tr")?.dataset.name;
    for (const row of table.querySelectorAll("tbody tr")) row.classList.toggle("tied", Boolean(tied[name]?.includes(row.dataset.name)));
  };
  for (const kind of ["mouseover", "focusin"]) table.addEventListener(kind, mark);
  table.addEventListener("mouseleave", () => table.querySelectorAll(".tied").forEach((row) => row.classList.remove("tied")));
}

/** Backbones x boards; holes and failures are cells too. */
function scoresTable(kept, boards) {
  const rowOf = new Map(boards.map((board) => [board, Object.fromEntries(board.rows.map((row) => [row.backbone, row]))]));
  const columns = [
    { title: "Backbone", header: true, key: (row) => row.name, cell: (row) => link("backbone", row.name) },
    ...boards.map((board) => ({
      title: board.title, kind: "number board", describe: `${metricName(board)}${board.higher_is_better ? "" : ", lower is better"}`,
      first: board.higher_is_better ? "descending" : "ascending",
      key: (row) => rowOf.get(board)[row.name]?.value ?? null,
      cell: (row) => scoreCell(board, rowOf.get(board)[row.name], row.name),
    })),
  ];
  return sortable(columns, kept, { id: "scores", label: "Every score", tall: true });
}

function scoreCell(board, row, name) {
  if (!row) {
    const failure = failureOf(board, name);
    return failure ? h("td", { class: "gap" }, h("a", { href: `#failure/${encodeURIComponent(failure.cell.id)}`, class: "bad" }, "failed"))
      : h("td", { class: "gap", title: "no record" }, "–");
  }
  const text = source(row.cells, score(board, row.value));
  text.title = `${metricName(board)}: ${score(board, row.value)} [${score(board, row.low)}, ${score(board, row.high)}]`;
  return row.tied ? h("b", {}, text) : text;
}

function failureOf(board, name) {
  return DATA.failed.find(({ cell }) => cell.backbone === name && cell.dataset === board.dataset && cell.protocol === board.protocol);
}
