"use strict";
for (const table of document.querySelectorAll(".answers")) {
  const form = table.querySelector("form");
  const body = table.querySelector("tbody");
  const rows = Array.from(body.rows, (row) => ({
    row,
    who: row.dataset.who,
    tags: JSON.parse(row.dataset.tags),
    order: Number(row.dataset.order),
    child: Number(row.dataset.child),
    gain: Number(row.dataset.gain),
    text: row.textContent.toLocaleLowerCase(),
  }));
  const orders = {
    given: (a, b) => a.order - b.order,
    child: (a, b) => a.child - b.child || a.order - b.order,
    gain: (a, b) => b.gain - a.gain || a.order - b.order,
  };
  const more = table.querySelector("button");
  const step = 50;
  let limit = step;
  let sorted = "given";
  const apply = () => {
    const chosen = new FormData(form);
    const who = chosen.get("who");
    const tag = chosen.get("tag");
    const find = chosen.get("find").toLocaleLowerCase();
    const order = chosen.get("sort");
    if (order !== sorted) {
      sorted = order;
      rows.sort(orders[order]);
      body.append(...rows.map((each) => each.row));
    }
    let n = 0;
    for (const each of rows) {
      const stays =
        (who === "all" || each.who === who) && (!tag || each.tags.includes(tag)) && each.text.includes(find);
      n += stays;
      each.row.hidden = !stays || n > limit;
    }
    more.hidden = n <= limit;
    const shown = table.dataset.shown.replace("{n}", n).replace("{all}", rows.length);
    form.querySelector("output").textContent = shown;
  };
  form.addEventListener("input", () => {
    limit = step;
    apply();
  });
  more.addEventListener("click", () => {
    limit += 2 * step;
    apply();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}
