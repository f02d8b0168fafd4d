"use strict";
// Charts in Vega-Lite, in the colours of the page, drawn anew when light turns to dark.

const FAMILIES = ["ViT", "CNN", "other"];
const specifications = new WeakMap(); // by place; a function, for colours depend on the scheme
const views = new Map(); // by place: what is drawn now
let queue = Promise.resolve();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function dark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Okabe & Ito 2008: told apart with any colour vision; the last is for what has no family. */
function familyColours() {
  return dark() ? ["#56b4e9", "#e69f00", "#b8c0c8"] : ["#0072b2", "#d55e00", "#6b6b6b"];
}

function theme() {
  const [ink, muted, line] = ["--ink", "--muted", "--line"].map(colour);
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: { labelColor: ink, titleColor: muted, gridColor: line, domainColor: muted, tickColor: muted, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 220 },
    legend: { labelColor: ink, titleColor: muted, labelFontSize: 12, orient: "top", title: null, symbolOpacity: 1 },
    title: { color: ink, subtitleColor: muted, anchor: "start" },
    text: { color: ink, fontSize: 12 },
    header: { labelColor: ink },
  };
}

/** A figure; it is drawn when it is on the page. */
function chart(caption, specification) {
  const place = h("div", { class: "chart" });
  specifications.set(place, specification);
  return h("figure", {}, place, h("figcaption", {}, caption));
}

async function draw(place, specification) {
  const full = {
    width: "container", autosize: { type: "fit-x", contains: "padding", resize: true },
    ...specification(), config: theme(),
  };
  const actions = { export: true, source: false, compiled: false, editor: false };
  const { view } = await vegaEmbed(place, full, { mode: "vega-lite", actions, renderer: "svg", tooltip: { theme: dark() ? "dark" : "light" } });
  view.addEventListener("click", (_, item) => {
    if (item?.datum?.backbone) location.hash = `#backbone/${encodeURIComponent(item.datum.backbone)}`;
  });
  views.set(place, view);
}

/** Draws the figures on the page that are not drawn yet, or all of them again, one call after the other. */
function drawCharts(again = false) {
  document.body.dataset.charts = "drawing"; // until it says "drawn"
  queue = queue.then(() => drawNow(again)).catch((error) => console.error(error));
  return queue;
}

async function drawNow(again) {
  for (const [place, view] of views) {
    if (again || !place.isConnected) {
      view.finalize();
      views.delete(place);
    }
  }
  for (const place of document.querySelectorAll(".chart")) {
    if (place.isConnected && !views.has(place)) await draw(place, specifications.get(place));
  }
  document.body.dataset.charts = "drawn";
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(true));

function familyScale() {
  return { field: "family", type: "nominal", scale: { domain: FAMILIES, range: familyColours() } };
}

/** Score against a quantity of which less (or, with `more`, more) is better, with intervals and the best trade-offs. */
function tradeOff(points, x, y, { frontier = true } = {}) {
  const known = points.filter((point) => point.x > 0);
  const xs = known.map((point) => point.x);
  const scale = Math.max(...xs) > 8 * Math.min(...xs) ? { type: "log" } : { type: "linear", zero: false }; // within a decade a logarithmic axis has hardly a number
  const best = frontier ? front(known, x.more, y.smaller) : [];
  const labelled = frontier ? apart(best, 1) : known.length <= 12 ? apart(known, 2) : [];
  const xAxis = { field: "x", type: "quantitative", title: x.title, scale: { ...scale, nice: false, padding: 24 }, axis: { format: ".3~s", grid: false } };
  const yAxis = (field) => ({ field, type: "quantitative", title: y.title, scale: { zero: false, reverse: Boolean(y.smaller) } });
  const tooltip = [
    { field: "backbone", title: "backbone" }, { field: "shown", title: y.title },
    { field: "x", title: x.title, format: ",.4~g" }, { field: "family", title: "family" }, { field: "method", title: "method" },
  ];
  return {
    description: `${y.title} against ${x.title}`,
    height: 360,
    layer: [
      ...(best.length > 1 ? [{ data: { values: best }, mark: { type: "line", interpolate: x.more ? "step-before" : "step-after", color: colour("--muted"), strokeDash: [4, 3] },
        encoding: { x: xAxis, y: yAxis("y"), order: { field: "x" } } }] : []),
      { data: { values: known }, mark: { type: "rule", strokeWidth: 1.5, opacity: 0.6 },
        encoding: { x: xAxis, y: yAxis("low"), y2: { field: "high" }, color: familyScale() } },
      { data: { values: known }, mark: { type: "point", filled: true, size: 90, opacity: 1, cursor: "pointer" },
        encoding: { x: xAxis, y: yAxis("y"), color: familyScale(), tooltip, shape: { field: "family", scale: { domain: FAMILIES, range: ["circle", "square", "diamond"] } } } },
      ...(labelled.length ? [{ data: { values: labelled }, mark: { type: "text", dy: -11, fontSize: 11, limit: innerWidth < 700 ? 110 : 220, align: { expr: "datum.align" } },
        encoding: { x: xAxis, y: yAxis("y"), text: { field: "backbone" } } }] : []),
    ],
  };
}

/** Those whose names can be written without one on the other, on one of `charts` side by side, and where from. */
function apart(points, charts) {
  const width = 190 / Math.min(innerWidth, innerWidth < 900 ? innerWidth : 1300 / charts);
  const [xs, ys] = [points.map((point) => Math.log(point.x)), points.map((point) => point.y)];
  const share = (values, value) => (value - Math.min(...values)) / (Math.max(...values) - Math.min(...values) || 1);
  const kept = [];
  for (const point of points) {
    const [x, y] = [share(xs, Math.log(point.x)), share(ys, point.y)];
    if (kept.every((other) => Math.abs(other.x - x) > width || Math.abs(other.y - y) > 0.06)) {
      kept.push({ x, y, named: { ...point, align: x < 0.2 ? "left" : x > 0.8 ? "right" : "center" } });
    }
  }
  return kept.map(({ named }) => named);
}

/** The points that no other beats in both. */
function front(points, more, smaller) {
  const [cheap, good] = [(p) => (more ? -p.x : p.x), (p) => (smaller ? -p.y : p.y)];
  const found = [];
  for (const point of [...points].sort((a, b) => cheap(a) - cheap(b) || good(b) - good(a))) {
    if (!found.length || good(point) > good(found.at(-1))) found.push(point);
  }
  return found;
}

/** Rank correlations of all pairs. */
function heatMap(names, agreements) {
  const width = (Math.min(innerWidth, 1440) - (innerWidth < 700 ? 150 : 280)) / names.length; // of a cell, in pixels
  const cells = agreements.flatMap((one) => [[one.first, one.second], [one.second, one.first]].map(([a, b]) => ({
    a, b, value: one.spearman.value, n: one.spearman.n,
    shown: one.spearman.value === null ? "–" : signed(one.spearman.value),
    interval: `[${signed(one.spearman.low)}, ${signed(one.spearman.high)}]`,
    kendall: one.kendall.value === null ? "–" : signed(one.kendall.value),
  })));
  const [x, y] = ["a", "b"].map((field) => ({ field, type: "nominal", sort: names, title: null, axis: { labelLimit: innerWidth < 700 ? 110 : 220 } }));
  return {
    description: "Spearman's rank correlations",
    data: { values: cells },
    height: names.length * Math.max(22, Math.min(44, 520 / names.length)),
    encoding: { x: { ...x, axis: { ...x.axis, labelAngle: -90, orient: "top" } }, y },
    layer: [
      { mark: { type: "rect" }, encoding: {
        color: { field: "value", type: "quantitative", title: "Spearman", scale: { domain: [-1, 0, 1], range: dark() ? ["#a34a17", "#22272c", "#1d659f"] : ["#d55e00", "#f7f7f7", "#0072b2"] }, legend: null },
        tooltip: [{ field: "a", title: "one" }, { field: "b", title: "other" }, { field: "shown", title: "Spearman" }, { field: "interval", title: "95 %" }, { field: "kendall", title: "Kendall" }, { field: "n", title: "backbones" }] } },
      ...(width >= 40 ? [{ mark: { type: "text", fontSize: 11 }, encoding: { text: { field: "shown" },
        color: { condition: { test: "datum.value > 0.9", value: "#ffffff" }, value: colour("--ink") } } }] : []),
    ],
  };
}

/** A dot with its interval per row, in the order given; `strong` rows stand out. */
function intervals(rows, title) {
  const y = { field: "name", type: "nominal", sort: rows.map((row) => row.name), title: null, axis: { labelLimit: innerWidth < 700 ? 140 : 280 } };
  const colours = { condition: { test: "datum.strong", value: colour("--bar") }, value: colour("--muted") };
  const x = (field) => ({ field, type: "quantitative", title, scale: { zero: false, nice: false, padding: 8 } });
  return {
    description: title,
    data: { values: rows },
    height: 22 * rows.length,
    layer: [
      { mark: { type: "rule", strokeWidth: 2 }, encoding: { y, x: x("low"), x2: { field: "high" }, color: colours } },
      { mark: { type: "point", filled: true, size: 70, opacity: 1, cursor: "pointer" }, encoding: { y, x: x("value"), color: colours,
        tooltip: [{ field: "name", title: "name" }, { field: "shown", title }] } },
    ],
  };
}

/** One backbone among the others, setting by setting, in z-scores. */
function profile(rows, name) {
  const order = [...new Set(rows.map((row) => row.board))];
  const y = { field: "board", type: "nominal", sort: order, title: null, axis: { labelLimit: innerWidth < 700 ? 130 : 320 } };
  const x = { field: "z", type: "quantitative", title: "z-score: right is better" };
  const tooltip = [{ field: "backbone", title: "backbone" }, { field: "shown", title: "score" }, { field: "z", title: "z", format: "+.2f" }];
  return {
    description: `${name} among the others`,
    data: { values: rows },
    height: 24 * order.length,
    encoding: { x, y, tooltip },
    layer: [
      { transform: [{ filter: "!datum.mine" }], mark: { type: "tick", color: colour("--muted"), thickness: 2, opacity: 0.7, cursor: "pointer" } },
      { transform: [{ filter: "datum.mine" }], mark: { type: "point", filled: true, size: 110, opacity: 1, color: colour("--bar") } },
    ],
  };
}
