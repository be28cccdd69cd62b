// Names for controls that the theme draws as bare icons.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll(".bd-links summary, .bd-sidebar summary")) {
    if (summary.textContent.trim() || summary.hasAttribute("aria-label")) continue;
    const link = summary.closest("li")?.querySelector("a");
    summary.setAttribute("aria-label", `Sections of ${link ? link.textContent.trim() : "this part"}`);
  }
  for (const entry of document.querySelectorAll('[role="list"] > .citation')) {
    entry.setAttribute("role", "listitem");
  }
});
