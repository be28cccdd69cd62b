// Names for controls that the theme draws as bare icons.
// Pages of wide tables are wide from the first paint on.
document.documentElement.classList.toggle(
  "wide",
  /^chapters\/(atlas|scoreboard|benchmarks)$/.test(DOCUMENTATION_OPTIONS.pagename),
);
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll(".bd-links summary, .bd-sidebar summary")) {
    if (summary.textContent.trim() || summary.hasAttribute("aria-label")) continue;
    const link = summary.closest("li")?.querySelector("a");
    summary.setAttribute("aria-label", `Sections of ${link ? link.textContent.trim() : "this part"}`);
  }
  // On a phone each claim is a card: its cells name their column, and stay cells of a table.
  for (const table of document.querySelectorAll("table.scoreboard")) {
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    table.setAttribute("role", "table");
    for (const group of table.querySelectorAll("thead, tbody")) group.setAttribute("role", "rowgroup");
    for (const row of table.rows) row.setAttribute("role", "row");
    for (const cell of table.tHead.rows[0].cells) cell.setAttribute("role", "columnheader");
    for (const cell of table.querySelectorAll("td")) {
      cell.setAttribute("role", "cell");
      if (["Measured", "Bound", "Source"].includes(heads[cell.cellIndex])) {
        cell.dataset.label = heads[cell.cellIndex];
      }
    }
  }
  for (const entry of document.querySelectorAll('[role="list"] > .citation')) {
    entry.setAttribute("role", "listitem");
  }
});
