// The atlas: filter, search and sort its table. Without this script the whole table is shown.
// The controls take their room before the table is there, or it would jump.
document.documentElement.classList.add("scripted");
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.atlas-controls");
  const table = document.querySelector("table.atlas");
  if (!form || !table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const plain = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  const texts = new Map(rows.map((row) => [row, plain(row.textContent)]));
  const count = form.querySelector(".atlas-count");

  const show = () => {
    const { words, part, status, verdict } = Object.fromEntries(new FormData(form));
    const wanted = plain(words).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const { part: itsPart, status: itsStatus, verdicts } = row.dataset;
      row.hidden = !(
        (!part || part === itsPart) &&
        (!status || status === itsStatus) &&
        (!verdict || verdicts.split("|").includes(verdict)) &&
        wanted.every((word) => texts.get(row).includes(word))
      );
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} papers shown`;
  };

  const sort = (head) => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[head.cellIndex].dataset.sort;
    const order = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
    const sorted = [...rows].sort((a, b) => (up ? order(a, b) : order(b, a)));
    body.append(...sorted);
  };

  for (const head of table.tHead.querySelectorAll("[data-sortable]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.title = `Sort by ${head.textContent.toLowerCase()}`;
    button.addEventListener("click", () => sort(head));
    head.replaceChildren(button);
  }
  form.addEventListener("input", show);
  form.querySelector("button").addEventListener("click", () => {
    form.reset();
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show(); // A browser that comes back to the page keeps what was typed.
});
