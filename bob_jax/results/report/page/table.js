"use strict";
// Tables that are sorted by a click or by Enter on a heading. What is missing stays at the end in either direction.

/**
 * columns: title; key(row), a number or text or null, to sort by (without it the column cannot be sorted); cell(row);
 *   first, the direction of the first click; kind, a class; header, true for the column that names the row;
 *   describe, a title for the heading.
 * options: id, label, of the region that scrolls; caption, above it; rowClass(row); order [title, direction]; tall.
 */
function sortable(columns, rows, options = {}) {
  let [sorted, direction] = options.order ?? [null, null];
  const body = h("tbody");
  const headings = columns.map((column) => {
    const kind = [column.kind, column.optional ? "optional" : null].filter(Boolean).join(" ");
    if (!column.key) return h("th", { scope: "col", class: kind || null }, breakable(column.title));
    const button = h("button", { type: "button", title: column.describe, onclick: () => sort(column) }, breakable(column.title));
    return h("th", { scope: "col", class: kind || null }, button);
  });

  function sort(column) {
    const first = column.first ?? "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    direction = sorted === column.title && direction === first ? other : first;
    sorted = column.title;
    draw();
  }

  function draw() {
    const column = columns.find((one) => one.title === sorted);
    const shown = column ? [...rows].sort(comparison(column.key, direction === "descending" ? -1 : 1)) : rows;
    headings.forEach((heading, i) => {
      if (columns[i].title === sorted) heading.setAttribute("aria-sort", direction);
      else heading.removeAttribute("aria-sort");
    });
    body.replaceChildren(...shown.map((row) =>
      h("tr", { class: options.rowClass?.(row) || null, "data-name": row.name ?? null }, columns.map((one) => entry(one, row)))));
  }

  draw();
  const table = h("table", {}, h("thead", {}, h("tr", {}, headings)), body);
  const region = h("div", { class: options.tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": options.label }, table);
  return h("div", { id: options.id }, options.caption ? h("p", { class: "muted" }, options.caption) : null, region);
}

function entry(column, row) {
  const cell = column.cell(row);
  if (cell instanceof HTMLTableCellElement) return cell;
  const kind = [column.kind, column.optional ? "optional" : null].filter(Boolean).join(" ");
  return column.header ? h("th", { scope: "row", class: kind || null }, cell) : h("td", { class: kind || null }, cell);
}

function comparison(key, sign) {
  return (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return sign * order;
  };
}
