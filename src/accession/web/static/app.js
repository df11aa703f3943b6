// Times in the viewer's zone, the choice of theme, and pages that keep themselves up to date.

const zoned = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.textContent = zoned.format(new Date(time.dateTime));
  }
}

function nameTheme(button) {
  button.textContent = document.documentElement.dataset.bsTheme === "dark" ? "Light mode" : "Dark mode";
}

function offerThemes(button) {
  nameTheme(button);
  button.addEventListener("click", () => {
    const theme = document.documentElement.dataset.bsTheme === "dark" ? "light" : "dark";
    document.documentElement.dataset.bsTheme = theme;
    localStorage.setItem("theme", theme);
    nameTheme(button);
  });
}

// The page is asked for again, and of its live parts those that differ take the place of the old: rows stay
// where they are, and so does the focus, unless it is within what has changed.
function keepUpToDate() {
  const live = (page) => page.querySelectorAll("[data-live][id]");
  const shown = new Map([...live(document)].map((part) => [part.id, part.innerHTML]));
  let timer;

  async function refresh() {
    clearTimeout(timer);
    try {
      const answer = await fetch(location.href);
      if (answer.ok && !answer.redirected) {
        take(new DOMParser().parseFromString(await answer.text(), "text/html"));
      }
    } finally {
      wait();
    }
  }

  function take(page) {
    for (const part of live(page)) {
      const old = document.getElementById(part.id);
      if (old && shown.get(part.id) !== part.innerHTML && !old.contains(document.activeElement)) {
        shown.set(part.id, part.innerHTML);
        old.replaceChildren(...part.childNodes);
        showLocalTimes(old);
      }
    }
    document.body.dataset.refresh = page.body.dataset.refresh ?? "";
  }

  function wait() {
    const seconds = Number(document.body.dataset.refresh);
    if (seconds && !document.hidden) timer = setTimeout(refresh, seconds * 1000);
  }

  // A page that nobody looks at waits until somebody does.
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  wait();
}

showLocalTimes(document);
offerThemes(document.getElementById("theme"));
keepUpToDate();
