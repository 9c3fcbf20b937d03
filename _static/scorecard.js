// The filter of the scorecard: entries and dots by paper, kind, chapter and verdict, kept in the address (?kind=figure).
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  const lists = [...form.querySelectorAll("select")];
  const entries = [...document.querySelectorAll(".entry")];
  const says = form.querySelector("output");

  const read = () => {
    const trouble = [];
    const names = lists.map((list) => list.name);
    lists.forEach((list) => (list.value = ""));
    new URLSearchParams(location.search).forEach((value, name) => {
      const list = lists.find((list) => list.name === name);
      const valid = list && [...list.options].map((option) => option.value).filter(Boolean);
      if (!list && name !== "highlight") trouble.push(`There is no filter "${name}"; there are ${names.join(", ")}.`);
      if (list && valid.includes(value)) list.value = value;
      else if (list && value) trouble.push(`No ${name} is called "${value}"; there are ${valid.join(", ")}.`);
    });
    return trouble;
  };

  const show = (trouble) => {
    const chosen = lists.filter((list) => list.value);
    const shown = new Set();
    entries.forEach((entry) => {
      const fits = chosen.every((list) => entry.dataset[list.name].split(" ").includes(list.value));
      if (fits) shown.add(entry.id);
      entry.closest("tr").hidden = !fits;
    });
    document.querySelectorAll("table.scorecard").forEach((table) => {
      table.hidden = !table.querySelector("tbody tr:not([hidden])");
    });
    const chapter = form.elements.chapter.value;
    document.querySelectorAll(".forest [data-claim]").forEach((row) => {
      row.hidden = !shown.has(row.dataset.claim);
      row.querySelectorAll("a[data-chapter]").forEach((dot) => {
        dot.style.display = chapter && dot.dataset.chapter !== chapter ? "none" : "";
      });
    });
    says.textContent = [...trouble, `${shown.size} of ${entries.length} claims are shown.`].join(" ");
  };

  const write = () => {
    const query = new URLSearchParams(lists.filter((list) => list.value).map((list) => [list.name, list.value]));
    history.replaceState(null, "", (query.size ? `?${query}` : location.pathname) + location.hash);
    show([]);
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", write);
  window.addEventListener("popstate", () => show(read()));
  form.hidden = false;
  show(read());
});
