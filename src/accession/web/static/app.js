// Local times, the theme button, the selection of rows, texts of charts, copying, and live updates of pages.

const timeFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const preciseFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

// A relative time keeps its text and has the local time on hover.
function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const format = "seconds" in time.dataset ? preciseFormat : timeFormat;
    const local = format.format(new Date(time.dateTime));
    if ("relative" in time.dataset) time.title = local;
    else time.textContent = local;
  }
}

function labelThemeButton(button) {
  button.textContent = document.documentElement.dataset.bsTheme === "dark" ? "Light mode" : "Dark mode";
}

function setUpThemeButton(button) {
  labelThemeButton(button);
  button.addEventListener("click", () => {
    const theme = document.documentElement.dataset.bsTheme === "dark" ? "light" : "dark";
    document.documentElement.dataset.bsTheme = theme;
    localStorage.setItem("accession.theme", theme);
    labelThemeButton(button);
  });
}

// Fetches the page again every `data-refresh` seconds and replaces the elements with `data-live` that have
// changed. Rows and the keyboard focus stay where they are; an element that contains the focus is not replaced.
function startLiveUpdates() {
  const liveElements = (page) => page.querySelectorAll("[data-live][id]");
  const shown = new Map([...liveElements(document)].map((element) => [element.id, element.innerHTML]));
  let timer;

  async function refresh() {
    clearTimeout(timer);
    try {
      const response = await fetch(location.href);
      if (response.ok && !response.redirected) {
        update(new DOMParser().parseFromString(await response.text(), "text/html"));
      }
    } finally {
      schedule();
    }
  }

  function update(page) {
    for (const element of liveElements(page)) {
      const old = document.getElementById(element.id);
      if (old && shown.get(element.id) !== element.innerHTML && !old.contains(document.activeElement)) {
        shown.set(element.id, element.innerHTML);
        for (const details of old.querySelectorAll("details[id][open]")) {
          element.querySelector(`#${details.id}`)?.setAttribute("open", "");
        }
        old.replaceChildren(...element.childNodes);
        showLocalTimes(old);
      }
    }
    document.body.dataset.refresh = page.body.dataset.refresh ?? "";
  }

  function schedule() {
    const seconds = Number(document.body.dataset.refresh);
    if (seconds && !document.hidden) timer = setTimeout(refresh, seconds * 1000);
  }

  // A hidden page is not updated until it becomes visible.
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  schedule();
}

// The checkbox in the head of a list, which needs this script, selects all rows of the page.
function setUpSelection(selectAll) {
  const boxes = [...document.querySelectorAll("input[name=collections]")];
  const matching = document.getElementById("select-matching");
  const hint = document.getElementById("selection");
  const instruction = hint.textContent;

  function showNumber() {
    const number = boxes.filter((box) => box.checked).length;
    selectAll.checked = number === boxes.length;
    selectAll.indeterminate = number > 0 && number < boxes.length;
    hint.textContent = matching.checked ? "All that match are selected, on every page."
      : number ? `${number} selected on this page.` : instruction;
  }

  selectAll.hidden = false;
  selectAll.addEventListener("change", () => {
    boxes.forEach((box) => { box.checked = selectAll.checked; });
    showNumber();
  });
  [...boxes, matching].forEach((box) => box.addEventListener("change", showNumber));
  showNumber();
}

// Shows the text of a chart's column at once, above the chart; without this script the browser shows it later.
function setUpChartTexts() {
  const tooltip = document.createElement("div");
  tooltip.className = "chart-tooltip";
  tooltip.hidden = true;
  document.body.append(tooltip);
  document.addEventListener("pointerover", (event) => {
    const column = event.target.closest(".chart-column");
    tooltip.hidden = !column;
    if (!column) return;
    const title = column.querySelector("title");
    column.dataset.text ??= title.textContent;
    title?.remove();
    tooltip.textContent = column.dataset.text;
    const box = column.getBoundingClientRect();
    const margin = tooltip.offsetWidth / 2 + 4;
    const center = box.left + box.width / 2;
    tooltip.style.left = `${Math.max(margin, Math.min(center, innerWidth - margin))}px`;
    tooltip.style.top = `${box.top}px`;
  });
}

// A button with `data-copy` copies the text of the element with that id, which is selected if it cannot be copied.
function setUpCopying(button) {
  const source = document.getElementById(button.dataset.copy);
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(source);
    // Browsers offer the clipboard only on https and on this machine.
    const isCopied = navigator.clipboard
      ? await navigator.clipboard.writeText(source.textContent.trim()).then(() => true, () => false)
      : document.execCommand("copy");
    button.textContent = isCopied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

showLocalTimes(document);
setUpThemeButton(document.getElementById("theme"));
startLiveUpdates();
setUpChartTexts();
document.querySelectorAll("button[data-copy]").forEach(setUpCopying);
if (document.getElementById("select-all")) setUpSelection(document.getElementById("select-all"));
document.getElementById("time-zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
