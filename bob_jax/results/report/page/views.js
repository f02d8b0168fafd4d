"use strict";
// One backbone, one data set, the records behind a number, a cell that failed.

function back() {
  return h("p", {}, h("a", { href: "#" }, "← all"));
}

function missing(kind, name) {
  return [back(), h("h1", { tabindex: "-1" }, `No ${kind} '${name}' here`)];
}

function backboneView(name) {
  if (!(name in DATA.facts)) return missing("backbone", name);
  const records = Object.values(DATA.records).filter((one) => one.cell.backbone === name);
  const newest = records.reduce((a, b) => (a.created >= b.created ? a : b));
  const ranking = DATA.rankings[DATA.scopes[0].ranking];
  const standing = ranking.standings?.find((one) => one.backbone === name);
  const lacking = DATA.boards.filter((board) => !board.rows.some((row) => row.backbone === name));
  const { gflops, ...card } = newest.backbone.card;
  return [back(), h("h1", { tabindex: "-1" }, breakable(name)), standing ? standingWords(standing, ranking) : h("p", { class: "muted" }, ranking.left_out?.[name] ? `Not ranked: ${ranking.left_out[name]}` : "Not ranked."),
    profileSection(name), cellsSection(records),
    lacking.length ? h("section", {}, h("h2", {}, "What others have and it has not"), h("ul", {}, lacking.map((board) => {
      const failure = failureOf(board, name);
      return h("li", {}, link("dataset", board.dataset, board.title), failure ? [": ", h("a", { href: `#failure/${encodeURIComponent(failure.cell.id)}`, class: "bad" }, "failed")] : "");
    }))) : null,
    pictures(records.map((one) => one.cell.id)),
    h("section", {}, h("h2", {}, "Card"), facts({ ...card, ...named(DATA.facts[name]), weights_sha256: newest.backbone.weights_sha256 })),
    receiptSection(name, newest.backbone.weights_sha256)];
}

/** Facts that the card does not have itself. */
function named({ family, supervision, flops, images_per_second: speed, pretraining_images: images }) {
  return { family, supervision, gflops: flops === null ? null : rounded(flops / 1e9), [`images/s on ${DATA.device}`]: rounded(speed), pretraining_images: rounded(images) };
}

function standingWords(standing, ranking) {
  const { value, low, high } = standing.figures[ranking.by], figure = FIGURES[ranking.by];
  const tied = ranking.tied[standing.backbone];
  return [h("p", {}, h("strong", {}, `Rank ${standing.range.replace("-", "–")}`), ` of ${ranking.standings.length}: ${figure.title} ${figure.write(value)} `,
    h("span", { class: "interval" }, `[${figure.write(low)}, ${figure.write(high)}]`)),
  h("p", {}, tied.length ? ["Cannot be told apart from: ", tied.flatMap((name, i) => [i ? ", " : "", link("backbone", name)])] : "Can be told apart from every other.")];
}

function profileSection(name) {
  const rows = DATA.boards.filter((board) => board.rows.length > 1 && board.rows.some((row) => row.backbone === name)).flatMap((board) => {
    const values = board.rows.map((row) => row.value), mean = values.reduce((a, b) => a + b) / values.length;
    const deviation = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length);
    const sign = board.higher_is_better ? 1 : -1;
    return board.rows.map((row) => ({ board: board.title, backbone: row.backbone, mine: row.backbone === name, z: deviation ? (sign * (row.value - mean)) / deviation : 0, shown: score(board, row.value) }));
  });
  return rows.length ? h("section", {}, h("h2", {}, "Among the others"), chart("Scores of each setting, standardised. Dot: this backbone; ticks: the others. A click opens them.", () => profile(rows, name))) : null;
}

function placeOf(record) {
  for (const board of DATA.boards) {
    const row = board.rows.find((one) => one.cells.includes(record.cell.id));
    if (row) return { board, row };
  }
  return null; // an older record of the same cell
}

function cellsSection(records) {
  const rows = records.map((record) => ({ record, main: record.metrics[record.main_metric], ...(placeOf(record) ?? { board: null, row: null }) }));
  const number = (x, board) => (board ? score(board, x) : x.toFixed(4));
  return h("section", {}, h("h2", {}, "All its cells"), sortable([
    { title: "Data set", header: true, key: (row) => row.record.cell.dataset, cell: (row) => link("dataset", row.record.cell.dataset) },
    { title: "Protocol", key: (row) => row.record.cell.protocol, cell: (row) => row.record.cell.protocol },
    { title: "Score", kind: "number", cell: (row) => source([row.record.cell.id], number(row.main.value, row.board)) },
    { title: "95 %", kind: "nowrap", cell: (row) => h("span", { class: "interval" }, `[${number(row.main.low, row.board)}, ${number(row.main.high, row.board)}]`) },
    { title: "Rank", key: (row) => row.row?.rank ?? null, cell: (row) => (row.row ? rankWords(row.board, row.row) : "replaced by a newer record") },
    { title: "Metric", optional: true, cell: (row) => (row.board ? metricName(row.board) : row.record.main_metric) },
    { title: "Seed", optional: true, kind: "number", key: (row) => row.record.cell.seed, cell: (row) => String(row.record.cell.seed) },
    { title: "Wall", optional: true, kind: "number", key: (row) => row.record.cost.wall_seconds, cell: (row) => seconds(row.record.cost.wall_seconds) },
    { title: "images/s", optional: true, kind: "number", key: (row) => row.record.cost.images_per_second, cell: (row) => rounded(row.record.cost.images_per_second) },
    { title: "Device", optional: true, key: (row) => row.record.environment.device_kind, cell: (row) => `${row.record.environment.device_count} x ${row.record.environment.device_kind}` },
    { title: "When", optional: true, kind: "nowrap", key: (row) => row.record.created, cell: (row) => row.record.created.slice(0, 10) },
  ], rows, { label: "All its cells" }));
}

function rankWords(board, row) {
  const alone = board.rows.filter((one) => one.tied).length === 1;
  return `${row.tied && !alone ? (row.evidence === "paired" ? "=" : "~") : ""}${row.rank} of ${board.rows.length}`;
}

function receiptSection(name, digest) {
  const receipt = DATA.receipts[name];
  if (!receipt) return h("section", {}, h("h2", {}, "Receipt"), h("p", { class: "muted" }, "The weights of this backbone were not converted on the machine that made this page."));
  const { parity, ...rest } = receipt;
  const columns = Object.keys(parity[0] ?? {});
  return h("section", {}, h("h2", {}, "Receipt"),
    h("p", { class: receipt.weights_sha256 === digest ? "muted" : "bad" }, receipt.weights_sha256 === digest ? "Of the weights that ran." : "Of other weights than those that ran."), facts(rest),
    parity.length ? sortable(columns.map((column) => ({ title: column.replaceAll("_", " "), kind: typeof parity[0][column] === "number" ? "number" : null, key: (row) => row[column],
      cell: (row) => (row[column] === null ? "–" : typeof row[column] === "number" && !Number.isInteger(row[column]) ? row[column].toExponential(1) : String(row[column])) })), parity, { caption: "Relative error against the original implementation.", label: "Parity" }) : null);
}

function datasetView(name) {
  const boards = DATA.boards.filter((board) => board.dataset === name);
  const records = Object.values(DATA.records).filter((one) => one.cell.dataset === name);
  const failed = DATA.failed.filter((one) => one.cell.dataset === name);
  if (!boards.length && !failed.length) return missing("data set", name);
  const { splits, ...rest } = records[0]?.dataset ?? { splits: {} };
  const parts = Object.entries(splits).map(([split, one]) => ({ split, ...one }));
  return [back(), h("h1", { tabindex: "-1" }, name), facts(rest),
    parts.length ? sortable([
      { title: "Split", header: true, cell: (row) => row.split }, { title: "Images", kind: "number", cell: (row) => String(row.size) },
      { title: "How it came to be", cell: (row) => row.note }, { title: "Not readable", kind: "number", cell: (row) => String(row.skipped.length) },
      { title: "Fingerprint", optional: true, cell: (row) => row.fingerprint.slice(0, 16) },
    ], parts, { label: "Splits" }) : null,
    boards.map(boardSection), pictures(records.map((one) => one.cell.id)),
    failed.length ? h("section", {}, h("h2", {}, "Failed"), h("ul", {}, failed.map((one) => h("li", {}, h("a", { href: `#failure/${encodeURIComponent(one.cell.id)}` }, one.cell.id), ` ${one.error}`)))) : null];
}

function boardSection(board) {
  const ends = board.rows.flatMap((row) => [row.low, row.high]);
  const rows = board.rows.map((row) => ({ name: row.backbone, backbone: row.backbone, strong: row.tied, value: row.value * board.scale, low: row.low * board.scale, high: row.high * board.scale,
    shown: `${score(board, row.value)} [${score(board, row.low)}, ${score(board, row.high)}]` }));
  const against = Object.fromEntries(board.against_best.map((one) => [one.second, one]));
  const lacking = NAMES.filter((name) => !board.rows.some((row) => row.backbone === name));
  const several = board.rows.some((row) => row.seeds > 1), shifted = board.rows.some((row) => row.gap);
  const columns = [
    { title: "Rank", key: (row) => board.rows.indexOf(row), cell: (row) => rankWords(board, row).split(" ")[0] },
    { title: "Backbone", header: true, key: (row) => row.backbone, cell: (row) => link("backbone", row.backbone) },
    { title: metricName(board), kind: "nowrap", first: board.higher_is_better ? "descending" : "ascending", key: (row) => row.value,
      cell: (row) => [bar(Math.min(...ends), Math.max(...ends), row.low, row.value, row.high, "small"), " ", source(row.cells, score(board, row.value)), " ", h("span", { class: "interval optional" }, `[${score(board, row.low)}, ${score(board, row.high)}]`)] },
    ...(shifted ? [
      { title: "clean", kind: "number", first: "descending", key: (row) => row.clean, cell: (row) => (row.clean === null ? "–" : score(board, row.clean)) },
      { title: "lost by the shift", kind: "number", key: (row) => row.gap?.[0] ?? null, cell: (row) => (row.gap ? score(board, row.gap[0]) : "–") }] : []),
    ...(board.against_best.length ? [
      { title: "behind the best by", kind: "number", optional: true, key: (row) => (against[row.backbone] ? behind(board, against[row.backbone])[0] : null), cell: (row) => differenceWords(board, against[row.backbone]) },
      { title: "p (Holm)", kind: "number", optional: true, key: (row) => against[row.backbone]?.p_corrected ?? null, cell: (row) => (against[row.backbone] ? against[row.backbone].p_corrected.toPrecision(2) : "–") }] : []),
    { title: "images", kind: "number", optional: true, key: (row) => row.n, cell: (row) => String(row.n) },
    ...(several ? [{ title: "seeds (std)", kind: "number", optional: true, key: (row) => row.seeds, cell: (row) => `${row.seeds}${row.spread === null ? "" : ` (${score(board, row.spread)})`}` }] : []),
    { title: "params", kind: "number", key: (row) => row.parameters, cell: (row) => millions(row.parameters) },
    { title: "wall", kind: "number", optional: true, key: (row) => row.cost.wall_seconds, cell: (row) => seconds(row.cost.wall_seconds) },
    { title: "memory", kind: "number", optional: true, key: (row) => row.cost.peak_memory_bytes, cell: (row) => (row.cost.peak_memory_bytes === null ? "–" : `${rounded(row.cost.peak_memory_bytes)}B`) },
  ];
  return h("section", {}, h("h2", {}, board.title),
    chart(`${metricName(board)} with 95 % intervals over test images${board.higher_is_better ? "" : "; lower is better"}. Blue: tied with the best.`, () => intervals(rows, metricName(board))),
    sortable(columns, board.rows, { label: board.title, rowClass: (row) => (row.tied ? "first" : "") }),
    h("ul", { class: "notes" }, tieNotes(board).map((note) => h("li", {}, note))),
    board.against_best.length ? h("p", { class: "muted" }, `Against the best on the same images, one seed of each: ${[...new Set(board.against_best.map((one) => one.test))].join(", ")} test, p corrected by Holm.`) : null,
    otherScores(board),
    lacking.length ? h("p", { class: "muted" }, "No record of: ", lacking.flatMap((name, i) => [i ? ", " : "", link("backbone", name)])) : null);
}

/** What the marks of the ranks mean, those that are there. */
function tieNotes(board) {
  const marks = board.rows.map((row) => rankWords(board, row)[0]);
  return [
    ["=", "= tied with the best: the 95 % interval of the difference on the same test images includes 0"],
    ["~", "~ perhaps tied: the two intervals overlap; there is nothing to compare them on the same test images by"],
  ].filter(([mark]) => marks.includes(mark)).map(([, words]) => words);
}

/** All scores of a board but the one that ranks and those of single classes; means over seeds. */
function otherScores(board) {
  const recordsOf = new Map(board.rows.map((row) => [row, row.cells.map((cell) => DATA.records[cell])]));
  const metrics = new Map([...recordsOf.values()].flat().flatMap((record) => Object.entries(record.metrics)).filter(([name]) => name !== board.metric && !name.includes("/")));
  const value = (row, name) => {
    const found = recordsOf.get(row).map((record) => record.metrics[name]?.value ?? null);
    return found.includes(null) ? null : found.reduce((a, b) => a + b) / found.length;
  };
  const columns = [...metrics].map(([name, { higher_is_better: higher }]) => ({
    title: name.replaceAll("_", " "), kind: "number board", describe: higher ? "higher is better" : "lower is better", first: higher ? "descending" : "ascending",
    key: (row) => value(row, name),
    cell: (row) => (value(row, name) === null ? "–" : source(row.cells, value(row, name).toFixed(4).replace("-", "−"))),
  }));
  return columns.length ? h("details", { class: "more" }, h("summary", {}, `Other scores (${columns.length})`), sortable([
    { title: "Backbone", header: true, key: (row) => row.backbone, cell: (row) => link("backbone", row.backbone) }, ...columns,
  ], board.rows, { label: `Other scores of ${board.title}` })) : null;
}

/** How much better the best is, with its interval: positive whatever the metric. */
function behind(board, { difference, low, high }) {
  return board.higher_is_better ? [difference, low, high] : [-difference, -high, -low];
}

function differenceWords(board, one) {
  if (!one) return "–";
  const [value, low, high] = behind(board, one).map((x) => score(board, x));
  return `${value} [${low}, ${high}]`;
}

/** The records behind one number: one a seed. */
function recordView(ids) {
  const records = ids.split("+").map((id) => [id, DATA.records[id]]);
  return [back(), records.map(([id, record]) => (record ? recordSection(id, record) : h("h1", { tabindex: "-1" }, `No record '${id}' here`)))];
}

function recordSection(id, record) {
  const metrics = Object.entries(record.metrics).map(([metric, one]) => ({ metric, ...one }));
  const text = `${JSON.stringify(record, null, 2)}\n`;
  return h("section", {}, h("h1", { tabindex: "-1" }, id),
    h("p", {}, link("backbone", record.cell.backbone), " on ", link("dataset", record.cell.dataset), ` by ${record.cell.protocol}, seed ${record.cell.seed}, ${record.created.slice(0, 10)}`),
    sortable([
      { title: "Metric", header: true, key: (row) => row.metric, cell: (row) => (row.metric === record.main_metric ? h("strong", {}, row.metric) : row.metric) },
      { title: "Value", kind: "number", key: (row) => row.value, cell: (row) => row.value.toFixed(4) },
      { title: "95 %", kind: "nowrap", cell: (row) => `[${row.low.toFixed(4)}, ${row.high.toFixed(4)}]` },
      { title: "n", kind: "number", key: (row) => row.n, cell: (row) => String(row.n) },
      { title: "Better", optional: true, cell: (row) => (row.higher_is_better ? "higher" : "lower") },
    ], metrics, { label: "Metrics" }),
    pictures([id]), h("h2", {}, "The record"), h("p", {}, download(() => text, `${id}.json`, "application/json", "As a file")), h("pre", { tabindex: "0" }, text));
}

function failureView(id) {
  const failure = DATA.failed.find((one) => one.cell.id === id);
  if (!failure) return missing("failed cell", id);
  return [back(), h("h1", { tabindex: "-1" }, id), h("p", { class: "bad" }, failure.error), h("pre", { tabindex: "0" }, failure.traceback), h("h2", {}, "The note"), h("pre", { tabindex: "0" }, JSON.stringify(failure, null, 2))];
}
