// The search page: chapters first, and summaries taken from the text of a page.
// Sphinx reads `Scorer` when its own script runs, which comes after this one.
const SEARCH_WORDS = (new URLSearchParams(window.location.search).get("q") || "")
  .toLowerCase()
  .split(/\s+/)
  .filter(Boolean);

var Scorer = {
  // A result is [page, title, anchor, description, score, file].
  score: (result) => {
    const [, title, anchor, , score, file] = result;
    if (anchor.startsWith("#term-")) result[1] = `Glossary: ${anchor.slice(6).replaceAll("-", " ")}`;
    const plain = title.toLowerCase();
    const share = SEARCH_WORDS.filter((word) => plain.includes(word)).length / SEARCH_WORDS.length;
    const chapter = file.endsWith(".ipynb") ? 10 : 0;
    const place = anchor ? 5 : 0; // an entry of the glossary, or a section
    return score + chapter + place + 20 * (share || 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const noise =
    "script, style, form, .headerlink, .math, .definitions, .page-provenance, div.cell_input, .toctree-wrapper";
  Search.htmlToText = (text, anchor) => {
    const article = new DOMParser().parseFromString(text, "text/html").querySelector("article");
    if (!article) return "";
    for (const element of article.querySelectorAll(noise)) element.remove();
    const place = anchor && article.querySelector(`[id="${CSS.escape(anchor.slice(1))}"]`);
    if (!place) return article.textContent.replace(/\s+/g, " ");
    // a term of the glossary: its definition follows it
    const whole = place.tagName === "DT" ? `${place.textContent}: ${place.nextElementSibling?.textContent}` : place.textContent;
    return whole.replace(/\s+/g, " ");
  };
});
