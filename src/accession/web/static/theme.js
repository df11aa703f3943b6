// Runs before the first paint: the theme that the viewer chose, or the system's.
document.documentElement.dataset.bsTheme =
  localStorage.getItem("accession.theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
