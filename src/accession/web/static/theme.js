// Before anything is drawn: the viewer's choice, else the system's.
document.documentElement.dataset.bsTheme =
  localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
