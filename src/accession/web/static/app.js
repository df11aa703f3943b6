// Local times, the theme button, and live updates of pages.

const timeFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.textContent = timeFormat.format(new Date(time.dateTime));
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
    localStorage.setItem("theme", theme);
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

// The checkbox in the head of a list, which needs this script, selects all rows.
function setUpSelectAll(selectAll) {
  const boxes = document.querySelectorAll("input[name=collections]");
  selectAll.hidden = false;
  selectAll.addEventListener("change", () => boxes.forEach((box) => { box.checked = selectAll.checked; }));
}

showLocalTimes(document);
setUpThemeButton(document.getElementById("theme"));
startLiveUpdates();
if (document.getElementById("select-all")) setUpSelectAll(document.getElementById("select-all"));
