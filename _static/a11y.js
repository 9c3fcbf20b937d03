// Repairs of the theme for readers who use a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  // a name must contain the text that is seen (WCAG 2.5.3), so labels that replace it go
  const labelled = "details.hide > summary, .search-button-field, .theme-switch-button, .nav-link";
  document.querySelectorAll(labelled).forEach((e) => e.removeAttribute("aria-label"));
  // the bibliography claims to be a list of items that are none
  document.querySelectorAll(".citation-list, .citation").forEach((e) => e.removeAttribute("role"));
  // the table of contents is a landmark
  const contents = document.querySelector("#pst-primary-sidebar");
  contents?.setAttribute("role", "complementary");
  contents?.setAttribute("aria-label", "Table of contents");

  // a notebook is to be saved, not shown
  document.querySelectorAll('a[href$=".ipynb"]').forEach((e) => e.setAttribute("download", ""));

  // what scrolls sideways can be reached with the keyboard
  const reach = () =>
    document.querySelectorAll(".pst-scrollable-table-container, pre, div.math, .scorecard p").forEach((e) => {
      if (e.scrollWidth > e.clientWidth) e.tabIndex = 0;
    });
  reach();
  window.addEventListener("resize", reach);
  window.MathJax?.startup?.promise?.then(reach);
});
