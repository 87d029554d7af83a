// Draws the charts, and lets tables be sorted by the column whose heading is pressed.
"use strict";

const specs = JSON.parse(document.getElementById("specs").textContent);
const small = matchMedia("(max-width: 700px)");
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Draws each chart for the screen; `ast`: its expressions are interpreted, as the page allows no `eval`. Level
 * 1 logs errors: Vega warns of panels without runs, such as those of cost. */
function draw() {
  for (const place of document.querySelectorAll("[data-chart]")) {
    const spec = specs[place.dataset.chart][small.matches ? 1 : 0];
    const tooltip = { theme: dark.matches ? "dark" : "light" };
    const shown = { actions: false, renderer: "svg", config: { background: "transparent" }, tooltip };
    const options = { mode: "vega-lite", ast: true, logLevel: 1, ...shown };
    vegaEmbed(place, spec, options);
  }
}

draw();
small.addEventListener("change", draw);

const collator = new Intl.Collator("en", { numeric: true });

/** What a cell is sorted by: the number that it stands for if it has one, else its text. */
function keyOf(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number.parseFloat(cell.dataset.value) : cell.textContent.trim();
}

/** Orders two keys; what isn't known comes last in either direction. */
function compare(one, two, sign) {
  if (typeof one === "number" && typeof two === "number") {
    if (Number.isNaN(one) || Number.isNaN(two)) return Number.isNaN(one) - Number.isNaN(two);
    return sign * (one - two);
  }
  return sign * collator.compare(one, two);
}

function sortBy(heading) {
  const table = heading.closest("table");
  const body = table.tBodies[0];
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const rows = [...body.rows].map((row) => ({ row, key: keyOf(row, heading.cellIndex) }));
  rows.sort((one, two) => compare(one.key, two.key, sign));
  body.append(...rows.map(({ row }) => row));
  for (const other of heading.parentElement.cells) {
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  }
  const direction = sign > 0 ? "ascending" : "descending";
  heading.setAttribute("aria-sort", direction);
  document.getElementById("said").textContent =
    `${table.caption.textContent}: sorted by ${heading.textContent.trim()}, ${direction}`;
}

for (const heading of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  heading.setAttribute("aria-sort", "none");
  button.addEventListener("click", () => sortBy(heading));
}
