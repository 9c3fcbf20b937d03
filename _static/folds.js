// A link to a place inside a closed fold opens it.
const openFold = () => {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = place?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  place?.scrollIntoView();
};
document.addEventListener("DOMContentLoaded", openFold);
window.addEventListener("hashchange", openFold);
