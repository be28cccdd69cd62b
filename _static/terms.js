// A glossary word shows its definition while it is pointed at or has the focus.
document.addEventListener("DOMContentLoaded", () => {
  let box = null;
  let owner = null;
  let timer = 0;

  const hide = () => {
    clearTimeout(timer);
    box?.remove();
    owner?.removeAttribute("aria-describedby");
    box = owner = null;
  };
  const hideSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(hide, 150);
  };

  const show = (link, definition) => {
    clearTimeout(timer);
    if (owner === link) return;
    hide();
    owner = link;
    box = document.createElement("div");
    box.className = "definition";
    box.id = "definition";
    box.setAttribute("role", "tooltip");
    box.append(...definition.cloneNode(true).childNodes);
    box.addEventListener("mouseenter", () => clearTimeout(timer));
    box.addEventListener("mouseleave", hideSoon);
    document.body.append(box);
    link.setAttribute("aria-describedby", box.id);
    const word = link.getBoundingClientRect();
    const left = Math.min(word.left, document.documentElement.clientWidth - box.offsetWidth - 8);
    const below = word.bottom + 6 + box.offsetHeight < window.innerHeight;
    const top = below ? word.bottom + 6 : word.top - box.offsetHeight - 6;
    box.style.left = `${Math.max(8, left) + window.scrollX}px`;
    box.style.top = `${top + window.scrollY}px`;
  };

  for (const word of document.querySelectorAll("a .std-term")) {
    const link = word.closest("a");
    const anchor = decodeURIComponent(link.hash.slice(1));
    const definition = document.getElementById(`define-${anchor}`);
    if (!definition) continue;
    link.classList.add("term");
    link.addEventListener("mouseenter", () => show(link, definition));
    link.addEventListener("mouseleave", hideSoon);
    link.addEventListener("focus", () => show(link, definition));
    link.addEventListener("blur", hide);
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
});
