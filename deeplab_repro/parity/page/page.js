"use strict";
// Sorting and filtering of the table.  The address keeps the state: #sort=rel&down=1&only=1&find=x
(() => {
  const table = document.getElementById("blobs");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const filter = document.getElementById("filter");
  const differing = document.getElementById("differing");
  const state = { sort: "number", down: false };

  // Numbers before what is no number, whichever way they are sorted.
  function compare(a, b, column, sign) {
    const x = a.cells[column].dataset.v, y = b.cells[column].dataset.v;
    if (heads[column].dataset.kind !== "number") return sign * x.localeCompare(y, "en", { numeric: true });
    const p = parseFloat(x), q = parseFloat(y);
    if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q);
    return p === q ? 0 : sign * (p < q ? -1 : 1);
  }

  function show() {
    const column = Math.max(0, heads.findIndex((head) => head.dataset.key === state.sort));
    const sign = state.down ? -1 : 1;
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const sorted = rows.slice().sort((a, b) => compare(a, b, column, sign));
    let shown = 0;
    for (const row of sorted) {
      const text = row.dataset.find;
      row.hidden = (differing.checked && !row.classList.contains("bad"))
        || !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    body.replaceChildren(...sorted);
    document.getElementById("shown").textContent = `${shown} of ${rows.length} blobs`;
  }

  function remember() {
    const hash = new URLSearchParams({ sort: state.sort });
    if (state.down) hash.set("down", "1");
    if (differing.checked) hash.set("only", "1");
    if (filter.value) hash.set("find", filter.value);
    try { history.replaceState(null, "", `#${hash}`); } catch { /* some viewers forbid it */ }
  }

  function recall() {
    const hash = new URLSearchParams(location.hash.slice(1));
    state.sort = hash.get("sort") || "number";
    state.down = hash.get("down") === "1";
    differing.checked = hash.get("only") === "1";
    filter.value = hash.get("find") || "";
    show();
  }

  heads.forEach((head) => head.querySelector("button").addEventListener("click", () => {
    state.down = state.sort === head.dataset.key ? !state.down : head.dataset.kind === "number";
    state.sort = head.dataset.key;
    show();
    remember();
  }));
  for (const control of [filter, differing]) {
    control.addEventListener("input", () => { show(); remember(); });
  }
  addEventListener("hashchange", recall);
  recall();
  document.documentElement.dataset.ready = "yes";
})();
