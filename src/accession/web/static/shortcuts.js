// Keyboard shortcuts: single keys, which can be turned off, and never while a field has the focus.

const GO_MILLISECONDS = 1500;
const FIELDS = "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]";
const ROWS = "main tbody th[scope=row] a, main .cover-link";
const shortcutDialog = document.getElementById("shortcuts");
const shortcutSwitch = document.getElementById("shortcuts-enabled");
const pages = new Map([...document.querySelectorAll("[data-shortcut]")].map((link) => [link.dataset.shortcut, link]));
let goAt = -Infinity;

function listPages() {
  for (const [key, link] of pages) {
    const keys = document.createElement("dt");
    keys.innerHTML = "<kbd>g</kbd> <kbd></kbd>";
    keys.lastElementChild.textContent = key;
    const page = document.createElement("dd");
    page.textContent = link.textContent;
    document.getElementById("shortcut-list").append(keys, page);
  }
}

function moveFocus(step) {
  const rows = [...document.querySelectorAll(ROWS)].filter((link) => link.checkVisibility());
  const row = document.activeElement.closest("tr, .cover-link");
  const current = rows.findIndex((link) => row?.contains(link));
  rows[current < 0 ? 0 : Math.min(Math.max(current + step, 0), rows.length - 1)]?.focus();
}

// Returns whether the key is a shortcut.
function run(key, isAfterGo) {
  if (isAfterGo && pages.has(key)) location.assign(pages.get(key).href);
  else if (key === "g") goAt = performance.now();
  else if (key === "?") shortcutDialog.showModal();
  else if (key === "j" || key === "k") moveFocus(key === "j" ? 1 : -1);
  else if (key === "/" && document.querySelector("main input[type=search]")) {
    document.querySelector("main input[type=search]").focus();
  } else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof Element && event.target.closest(FIELDS);
  const hasModifier = event.ctrlKey || event.altKey || event.metaKey || event.isComposing;
  if (!shortcutSwitch.checked || shortcutDialog.open || isTyping || hasModifier) return;
  const isAfterGo = performance.now() - goAt < GO_MILLISECONDS;
  if (event.key !== "Shift") goAt = -Infinity;
  if (run(event.key, isAfterGo)) event.preventDefault();
});

shortcutSwitch.checked = localStorage.getItem("accession.shortcuts") !== "off";
shortcutSwitch.addEventListener("change", () => {
  localStorage.setItem("accession.shortcuts", shortcutSwitch.checked ? "on" : "off");
});
document.getElementById("show-shortcuts").hidden = false;
document.getElementById("show-shortcuts").addEventListener("click", () => shortcutDialog.showModal());
listPages();
