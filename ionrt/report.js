// What each table needs at least, in rem: one wider than A4 is printed smaller (report.css), and not the whole page with it.
addEventListener("load", () => {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  for (const table of document.querySelectorAll("main table")) {
    table.style.width = "min-content";
    table.style.setProperty("--least", table.offsetWidth / rem);
    table.style.width = "";
  }
});
