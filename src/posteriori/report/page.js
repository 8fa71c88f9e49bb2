"use strict";
(() => {
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });

  const table = document.getElementById("samples");
  if (!table) return;
  const groups = [...table.tBodies].map((body) => ({ body, cells: cellsOf(body) }));
  const buttons = [...table.querySelectorAll("button[data-sort]")];
  let sorted = { key: null, falling: false };

  // One draw is three cells of a row (text, reward, log-prob); a group has a list of draws a policy.
  function cellsOf(body) {
    const rows = [...body.rows].slice(1);
    const policies = rows.length ? rows[0].cells.length / 3 : 0;
    return Array.from({ length: policies }, (_, p) =>
      rows.map((row) => [...row.cells].slice(3 * p, 3 * p + 3)));
  }

  function valueOf(draw, key) {
    const cell = draw.find((each) => each.hasAttribute("data-" + key));
    return cell ? Number(cell.getAttribute("data-" + key)) : NaN;
  }

  // What has no number comes last either way.
  function compare(a, b, key, falling) {
    const [x, y] = [valueOf(a, key), valueOf(b, key)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    if (x === y) return 0;
    return (x < y) === falling ? 1 : -1;
  }

  function arrange() {
    for (const { body, cells } of groups) {
      const columns = cells.map((draws) => sorted.key === null ? draws
        : [...draws].sort((a, b) => compare(a, b, sorted.key, sorted.falling)));
      [...body.rows].slice(1).forEach((row, r) => {
        row.replaceChildren(...columns.flatMap((draws) => draws[r]));
      });
    }
    for (const button of buttons) {
      const head = button.closest("th");
      if (button.dataset.sort !== sorted.key) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", sorted.falling ? "descending" : "ascending");
    }
    search();
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      if (sorted.key !== key) sorted = { key, falling: true };
      else if (sorted.falling) sorted = { key, falling: false };
      else sorted = { key: null, falling: false };
      arrange();
    });
  }

  const input = document.getElementById("search");
  const output = document.getElementById("matches");
  const texts = [...table.querySelectorAll("td.text bdi, tr.prompt bdi")]
    .map((element) => ({ element, text: element.textContent, hit: true }));
  const textOf = new Map(texts.map((each) => [each.element, each]));

  // Rebuilt from text nodes alone: what a model wrote is never parsed as markup.
  function show(each, pattern) {
    const matches = pattern ? [...each.text.matchAll(pattern)] : [];
    each.hit = !pattern || matches.length > 0;
    const parts = [];
    let end = 0;
    for (const match of matches) {
      const mark = document.createElement("mark");
      mark.textContent = match[0];
      parts.push(each.text.slice(end, match.index), mark);
      end = match.index + match[0].length;
    }
    each.element.replaceChildren(...parts, each.text.slice(end));
  }

  function search() {
    const words = input.value.trim();
    const pattern = words && new RegExp(words.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), "giu");
    for (const each of texts) show(each, pattern);
    let found = 0;
    let total = 0;
    for (const { body } of groups) {
      const [head, ...rows] = body.rows;
      const whole = textOf.get(head.querySelector("bdi")).hit;
      let any = false;
      for (const row of rows) {
        let hits = 0;
        for (const cell of row.querySelectorAll("td.text")) {
          const bdi = cell.querySelector("bdi");
          if (!bdi) continue;
          const hit = whole || textOf.get(bdi).hit;
          cell.classList.toggle("dim", !hit);
          hits += hit;
          total += 1;
        }
        row.hidden = hits === 0;
        any ||= hits > 0;
        found += hits;
      }
      body.hidden = !any;
    }
    output.textContent = words ? `${found} of ${total} completions` : "";
  }

  input.addEventListener("input", search);
  document.querySelector(".tools").hidden = false;
})();
