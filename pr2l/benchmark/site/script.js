// Sortable tables, legends that hide lines, and a theme button. Without JavaScript the pages lack only these.
"use strict";

const status_ = document.getElementById("status");

// "0.87 [0.82, 0.91]" sorts by 0.87; text that is no number, such as a commit, sorts last in both orders.
function number(text) {
  const match = text.replaceAll(",", "").match(/^-?\d+(\.\d+)?(e[+-]?\d+)?(?=\s|$)/);
  return match ? Number(match[0]) : null;
}

function compare(left, right, sign) {
  const [a, b] = [number(left), number(right)];
  if (a === null && b === null) return sign * left.localeCompare(right);
  if (a === null || b === null) return a === null ? 1 : -1;
  return sign * (a - b);
}

function sort(table, column, heading) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const text = (row) => row.cells[column].textContent.trim();
  const first = rows.some((row) => number(text(row)) !== null) ? "descending" : "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? second : first;
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  rows.sort((a, b) => compare(text(a), text(b), order === "ascending" ? 1 : -1));
  body.append(...rows);
  status_.textContent = `Sorted by ${heading.textContent.trim()}, ${order}`;
}

function button(...children) {
  const made = document.createElement("button");
  made.type = "button";
  made.append(...children);
  return made;
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if ("fixed" in heading.dataset) return;
    const control = button(...heading.childNodes);
    control.addEventListener("click", () => sort(table, column, heading));
    heading.append(control);
  });
}

// A table that is wider than the page has a shadow at its right edge until it is scrolled to the end.
for (const box of document.querySelectorAll(".scroll")) {
  const update = () => {
    const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.parentElement.classList.toggle("more", rest > 1);
    box.parentElement.classList.toggle("fits", box.scrollWidth <= box.clientWidth + 1);
  };
  box.addEventListener("scroll", update, { passive: true });
  new ResizeObserver(update).observe(box);
  update();
}

for (const figure of document.querySelectorAll("figure.chart")) {
  for (const entry of figure.querySelectorAll(".legend li")) {
    const control = button(...entry.childNodes);
    control.setAttribute("aria-pressed", "true");
    control.title = "Show or hide this line";
    control.addEventListener("click", () => {
      const shown = control.getAttribute("aria-pressed") !== "true";
      control.setAttribute("aria-pressed", String(shown));
      for (const part of figure.querySelectorAll("[data-line]")) {
        if (part.dataset.line === entry.dataset.name) part.style.display = shown ? "" : "none";
      }
    });
    entry.append(control);
  }
}

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const show = () => { theme.textContent = isDark() ? "Switch to light theme" : "Switch to dark theme"; };

if (stored()) document.documentElement.dataset.theme = stored();
theme.hidden = false;
theme.addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try { localStorage.setItem("theme", chosen); } catch { /* not stored in a private window */ }
  show();
});
dark.addEventListener("change", show);
show();
