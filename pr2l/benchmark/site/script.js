// Sortable tables and a theme button. Without JavaScript the pages lack only these.
"use strict";

const said = document.getElementById("said");

// "0.87 [0.82, 0.91]" sorts by 0.87; what is no number, as a commit, comes last whichever way.
function number(text) {
  const found = text.replaceAll(",", "").match(/^-?\d+(\.\d+)?(e[+-]?\d+)?(?=\s|$)/);
  return found ? Number(found[0]) : null;
}

function compare(one, other, up) {
  const [a, b] = [number(one), number(other)];
  if (a === null && b === null) return up * one.localeCompare(other);
  if (a === null || b === null) return a === null ? 1 : -1;
  return up * (a - b);
}

function sort(table, column, heading) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const text = (row) => row.cells[column].textContent.trim();
  const first = rows.some((row) => number(text(row)) !== null) ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  rows.sort((a, b) => compare(text(a), text(b), order === "ascending" ? 1 : -1));
  body.append(...rows);
  said.textContent = `Sorted by ${heading.textContent.trim()}, ${order}`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if ("fixed" in heading.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, column, heading));
    heading.append(button);
  });
}

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const show = () => theme.setAttribute("aria-pressed", String(isDark()));

if (stored()) document.documentElement.dataset.theme = stored();
theme.hidden = false;
theme.addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try { localStorage.setItem("theme", chosen); } catch { /* a private window forgets it */ }
  show();
});
dark.addEventListener("change", show);
show();
