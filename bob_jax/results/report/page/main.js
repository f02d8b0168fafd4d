"use strict";
// Which view the address asks for: nothing or a section's name is the overview; else kind/name.

const VIEWS = { backbone: backboneView, dataset: datasetView, record: recordView, failure: failureView };
const SECTIONS = {
  leaderboard: ["Leaderboard", leaderboard], cost: ["Cost", costSection], size: ["Size", sizeSection],
  ...(DATA.analysis ? { agreement: ["Agreement", agreementSection], factors: ["Factors", factorsSection] } : {}),
  index: ["Backbones & data", indexSection], downloads: ["Download", downloads],
};
const main = document.getElementById("main");
let overview = null; // kept, so that filters and sorting are there when one comes back
let kind = "";

function overviewNow() {
  overview ??= [h("h1", { tabindex: "-1" }, `${NAMES.length} ${NAMES.length === 1 ? "backbone" : "backbones"}, ${Object.keys(DATA.records).length} records`), ...Object.values(SECTIONS).map(([, make]) => make())];
  return overview;
}

async function route() {
  const [first, ...rest] = location.hash.slice(1).split("/");
  const came = kind;
  kind = first in VIEWS ? first : "";
  if (kind || came || !overview) {
    const children = kind ? VIEWS[kind](rest.map(decode).join("/")) : overviewNow();
    main.replaceChildren(...[children].flat(2).filter(Boolean));
  }
  document.body.dataset.address = location.hash;
  const heading = main.querySelector("h1");
  document.title = `${kind ? `${heading.textContent} · ` : ""}${DATA.title} · Battle of the Backbones`;
  const target = kind ? null : document.getElementById(first);
  if (target) target.scrollIntoView();
  else if (kind || came) {
    scrollTo(0, 0);
    heading.focus({ preventScroll: true });
  }
  await drawCharts();
}

function decode(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word; // not of this page's making
  }
}

document.getElementById("subject").textContent = DATA.title;
document.getElementById("sections").append(...Object.entries(SECTIONS).map(([id, [words]]) => h("a", { href: `#${id}` }, words)));
document.getElementById("about").append(
  h("p", {}, `${Object.keys(DATA.records).length} records, the newest of ${DATA.newest.slice(0, 10)}; made by ${document.querySelector("meta[name=generator]").content}. `
    + "Intervals are 95 %, by bootstrap: of a score over test images, of the ranking over test images, seeds and data sets. Ranks are ranges that hold together with 95 %. "
    + "The page is one file and connects to nothing. Charts: Vega-Lite (BSD 3-Clause)."));
addEventListener("hashchange", route);
route();
