"use strict";
// What the ranking alone does not say: cost, agreement of the tasks, what goes with a good score, what cheap protocols tell.

const COSTS = {
  flops: { title: "FLOPs of one image", more: false },
  parameters: { title: "parameters", more: false },
  images_per_second: { title: `images per second on ${DATA.device}`, more: true },
};
const QUANTITIES = { ...COSTS, pretraining_images: { title: "pretraining images", more: false } };

function quantity(name, key) {
  const value = DATA.facts[name][key];
  return key === "parameters" && value !== null ? 1e6 * value : value;
}

/** The figure that ranks, for charts: one point a backbone that the filter lets through. */
function rankedPoints(ranking, key) {
  return (ranking.standings ?? []).filter((one) => shown(one.backbone)).map((one) => {
    const { value, low, high } = one.figures[ranking.by], write = FIGURES[ranking.by].write;
    return point(one.backbone, key, value, low, high, `${write(value)} [${write(low)}, ${write(high)}]`);
  });
}

function boardPoints(board, key) {
  return board.rows.filter((row) => shown(row.backbone)).map((row) => {
    const [y, low, high] = [row.value, row.low, row.high].map((x) => x * board.scale);
    return point(row.backbone, key, y, low, high, `${score(board, row.value)} [${score(board, row.low)}, ${score(board, row.high)}]`);
  });
}

function point(backbone, key, y, low, high, words) {
  const { family, method } = DATA.facts[backbone];
  return { backbone, family, method, x: quantity(backbone, key), y, low, high, shown: words };
}

/** A figure with its choices; it follows the filter of the leaderboard. */
function following(place, update) {
  document.addEventListener("scope", () => { if (place.isConnected) update(); });
  update();
}

function costSection() {
  const place = h("div"), state = { cost: "flops", board: "" };
  const choice = (key, title, options) => h("label", {}, title, h("select", { name: key, onchange: (event) => { state[key] = event.target.value; update(); } },
    options.map(([value, words]) => h("option", { value }, words))));
  const form = h("form", { "aria-label": "Axes", onsubmit: (event) => event.preventDefault() });
  let scope = null;
  const update = () => {
    if (scope !== scopeNow()) {
      scope = scopeNow();
      state.board = "";
      form.replaceChildren(choice("cost", "Cost", Object.entries(COSTS).map(([key, { title }]) => [key, title])),
        choice("board", "Score", [["", "the ranking"], ...scope.boards.map((i) => [String(i), DATA.boards[i].title])]));
      form.querySelector("[name=cost]").value = state.cost;
    }
    const board = state.board === "" ? null : DATA.boards[Number(state.board)], ranking = DATA.rankings[scope.ranking];
    if (!board && !ranking.standings) {
      place.replaceChildren(h("p", { class: "muted" }, "Nothing is ranked here; choose a score."));
      return;
    }
    const points = board ? boardPoints(board, state.cost) : rankedPoints(ranking, state.cost);
    if (!points.some((one) => one.x > 0)) {
      place.replaceChildren(h("p", { class: "muted" }, "Nothing to draw: no backbone is left, or their cost is not known."));
      return;
    }
    const y = board ? { title: metricName(board), smaller: !board.higher_is_better } : FIGURES[ranking.by];
    place.replaceChildren(chart(
      "Lines: 95 % intervals. Dashed: the backbones that no other beats in both; with intervals that overlap the line may run elsewhere. A click opens the backbone.",
      () => tradeOff(points, COSTS[state.cost], y)), unknown(points));
    drawCharts();
  };
  following(place, update);
  return h("section", { id: "cost" }, h("h2", {}, "Score and cost"), form, place);
}

function unknown(points) {
  const lacking = points.filter((one) => !(one.x > 0)).map((one) => one.backbone);
  return lacking.length ? h("p", { class: "muted" }, `Not shown, for it is not known of them: ${lacking.join(", ")}`) : "";
}

function correlationWords(one) {
  return one.value === null ? `no correlation can be told (${one.n} backbones)` : `Spearman ${signed(one.value)} [${signed(one.low)}, ${signed(one.high)}] of ${one.n} backbones`;
}

function sizeSection() {
  const place = h("div", { class: "columns" });
  const update = () => {
    const ranking = DATA.rankings[scopeNow().ranking];
    place.replaceChildren(...["parameters", "pretraining_images"].map((key) => {
      const whole = scopeNow().ranking === DATA.scopes[0].ranking && DATA.analysis;
      const words = whole ? Object.entries(DATA.analysis.against[key]).map(([group, one]) => `${group}: ${correlationWords(one)}`).join("; ") : "";
      const points = rankedPoints(ranking, key);
      return h("div", {}, h("h3", {}, `By ${QUANTITIES[key].title}`),
        points.some((one) => one.x > 0) ? chart(words, () => tradeOff(points, QUANTITIES[key], FIGURES[ranking.by], { frontier: false })) : h("p", { class: "muted" }, "Not known of any backbone that is ranked here."),
        points.some((one) => one.x > 0) ? unknown(points) : "");
    }));
    drawCharts();
  };
  following(place, update);
  return h("section", { id: "size" }, h("h2", {}, "Size and pretraining data"), place);
}

function agreementSection() {
  const { between_tasks: tasks, between_settings: settings } = DATA.analysis;
  const names = (list) => [...new Set(list.flatMap((one) => [one.first, one.second]))];
  const figure = (title, list) => (list.length ? h("div", {}, h("h3", {}, title), chart(
    "Spearman's rank correlation over backbones; point at a cell for its interval. Of few backbones the intervals are wide: up to three say nothing.",
    () => heatMap(names(list), list))) : null);
  return h("section", { id: "agreement" }, h("h2", {}, "Do tasks and settings agree?"),
    figure("Tasks", tasks) ?? h("p", { class: "muted" }, "One task alone has none to agree with."),
    figure("Settings", settings));
}

function factorsSection() {
  const { matches, contrasts, against, cheap } = DATA.analysis;
  const correlations = sortable([
    { title: "Quantity", header: true, cell: (row) => QUANTITIES[row.key].title },
    ...Object.keys(Object.values(against)[0]).map((group) => ({ title: group, kind: "nowrap", cell: (row) => correlationWords(row.found[group]) })),
  ], Object.entries(against).map(([key, found]) => ({ key, found })), { label: "Correlations with the score" });
  return h("section", { id: "factors" }, h("h2", {}, "What goes with a good score?"), correlations,
    h("h3", {}, "Apples to apples"),
    matches.length ? sortable([
      { title: "Network", header: true, cell: (row) => row.network },
      { title: "Pretraining data", cell: (row) => row.data },
      { title: "Methods, best first", cell: (row) => row.backbones.flatMap(([method, name], i) => [i ? " · " : "", `${method}: `, link("backbone", name)]) },
    ], matches, { label: "Apples to apples", caption: "The same network, the same pretraining data, another method." })
      : h("p", { class: "muted" }, "No two backbones differ in their pretraining method alone."),
    contrasts.length ? h("ul", {}, contrasts.map((one) => h("li", {}, `${one.task}: ${one.first} less ${one.second}: ${signed(one.difference.value)} `
      + `[${signed(one.difference.low)}, ${signed(one.difference.high)}] over ${one.difference.n} matches`))) : null,
    cheap.length ? [h("h3", {}, "Do cheap protocols order backbones as fine-tuning does?"), sortable([
      { title: "Cheap protocol", header: true, key: (row) => row.cheap, cell: (row) => row.cheap },
      { title: "Spearman [95 %]", first: "descending", key: (row) => row.spearman, cell: (row) => (row.spearman === null ? "–" : `${signed(row.spearman)} [${signed(row.low)}, ${signed(row.high)}]`) },
      { title: "lost by its choice", kind: "number", key: (row) => row.regret, cell: (row) => `${(100 * row.regret).toFixed(2)} points` },
      { title: "best found", kind: "number", key: (row) => row.agreeing / row.comparisons, cell: (row) => `${row.agreeing} of ${row.comparisons}` },
      { title: "data sets", kind: "number", cell: (row) => String(row.datasets) },
      { title: "backbones", kind: "number", cell: (row) => String(row.backbones) },
    ], cheap, { label: "Cheap protocols" })] : null);
}

function indexSection() {
  const datasets = [...new Set([...DATA.boards, ...DATA.failed.map((one) => one.cell)].map((one) => one.dataset))].sort();
  return h("section", { id: "index" }, h("h2", {}, "Backbones and data sets"),
    h("h3", {}, "Backbones"), h("ul", { class: "names" }, NAMES.map((name) => h("li", {}, link("backbone", name)))),
    h("h3", {}, "Data sets"), h("ul", { class: "names" }, datasets.map((name) => h("li", {}, link("dataset", name)))),
    DATA.failed.length ? [h("h3", {}, "Failed cells"), h("ul", {}, DATA.failed.map((one) => h("li", {},
      h("a", { href: `#failure/${encodeURIComponent(one.cell.id)}` }, one.cell.id), ` ${one.error}`)))] : null);
}

function downloads() {
  const json = (value) => () => `${JSON.stringify(value, null, 1)}\n`;
  return h("section", { id: "downloads" }, h("h2", {}, "Take it with you"), h("p", {}, "Nothing is rounded."), h("p", {},
    download(() => DATA.csv, "boards.csv", "text/csv", "Boards as CSV"), " ",
    DATA.analysis ? [download(json(DATA.analysis), "ranking.json", "application/json", "Ranking and correlations as JSON"), " "] : null,
    download(json({ records: Object.values(DATA.records), failed: DATA.failed }), "records.json", "application/json", "All records as JSON")));
}
