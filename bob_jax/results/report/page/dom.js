"use strict";
// The content, and the few functions that make elements of it. Text is only ever set as text: nothing in a record is run.

const DATA = JSON.parse(document.getElementById("data").textContent);

const FIGURES = {
  mean_z: { title: "mean z", write: (x) => signed(x), smaller: false },
  mean_rank: { title: "mean rank", write: (x) => x.toFixed(2), smaller: true },
  win_rate: { title: "win rate %", write: (x) => (100 * x).toFixed(0), smaller: false },
  bradley_terry: { title: "Bradley–Terry", write: (x) => signed(x), smaller: false },
  first_share: { title: "first %", write: (x) => (100 * x).toFixed(0), smaller: false },
};

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function link(kind, name, text = name) {
  return h("a", { href: `#${kind}/${encodeURIComponent(name)}` }, breakable(text));
}

/** A name that a narrow column may break after its underscores and slashes. */
function breakable(name) {
  return name.split(/(?<=[_/])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));
}

/** A number that leads to the records it was made of. */
function source(cells, text) {
  return h("a", { href: `#record/${cells.map(encodeURIComponent).join("+")}` }, text);
}

function signed(x, digits = 2) {
  const text = Math.abs(x).toFixed(digits);
  return (x < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

function rounded(x) {
  if (x === null || x === undefined) return "–";
  if (x >= 1e9) return `${Number((x / 1e9).toPrecision(3))} G`;
  if (x >= 1e6) return `${Number((x / 1e6).toPrecision(3))} M`;
  return Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : `${Number(x.toPrecision(3))}`;
}

function millions(x) {
  return x === null ? "–" : x >= 1000 ? `${Number((x / 1000).toPrecision(3))} G` : `${Number(x.toPrecision(3))} M`;
}

function seconds(x) {
  if (x === null) return "–";
  if (x < 60) return `${x.toFixed(1)} s`;
  const minutes = Math.round(x / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A board's score as it is written. */
function score(board, value) {
  return (value * board.scale).toFixed(board.digits).replace("-", "−");
}

function metricName(board) {
  return board.metric.replaceAll("_", " ") + (board.scale === 100 ? " %" : "");
}

/** An interval on a scale from `least` to `most`; numbers stand beside it, so that it is no picture of its own. */
function bar(least, most, low, value, high, kind = "") {
  const place = (x) => `${most > least ? (100 * (Math.min(Math.max(x, least), most) - least)) / (most - least) : 50}%`;
  const range = h("i"), point = h("b"), parts = [range];
  range.style.left = place(low);
  range.style.width = `calc(${place(high)} - ${place(low)})`;
  if (value !== null) {
    point.style.left = place(value);
    parts.push(point);
  }
  if (least < 0 && most > 0) {
    const zero = h("s");
    zero.style.left = place(0);
    parts.unshift(zero);
  }
  return h("span", { class: `bar ${kind}`, "aria-hidden": "true" }, parts);
}

/** Plain data as a list of facts. */
function facts(value) {
  if (value === null || value === "") return "–";
  if (Array.isArray(value)) {
    return value.some((item) => item && typeof item === "object") ? value.map(facts) : value.join(", ") || "–";
  }
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "object") return String(value);
  const entries = Object.entries(value);
  if (!entries.length) return "–";
  return h("dl", {}, entries.map(([name, item]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, facts(item))]));
}

function download(text, name, kind, words) {
  return h("button", {
    type: "button",
    onclick: () => {
      const address = URL.createObjectURL(new Blob([text()], { type: kind }));
      h("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60000);
    },
  }, words);
}

function picture(cell, name) {
  return h("figure", {},
    h("img", { src: DATA.pictures[cell][name], alt: `${name} of ${cell}`, loading: "lazy" }),
    h("figcaption", {}, source([cell], DATA.records[cell].cell.backbone), ` · ${name}`));
}

function pictures(cells) {
  const found = cells.filter((cell) => cell in DATA.pictures);
  if (!found.length) return null;
  return h("section", {}, h("h2", {}, "Pictures"), h("p", { class: "muted" }, "Truth beside what was found."),
    h("div", { class: "pictures" }, found.flatMap((cell) => Object.keys(DATA.pictures[cell]).map((name) => picture(cell, name)))));
}
