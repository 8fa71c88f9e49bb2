"use strict";
(() => {
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });

  const table = document.getElementById("samples");
  if (!table) return;
  const data = JSON.parse(document.getElementById("samples-data").textContent);
  const body = table.tBodies[0];
  const buttons = [...table.querySelectorAll("button[data-sort]")];
  const input = document.getElementById("search");
  const prompt = document.getElementById("prompt");
  const matches = document.getElementById("matches");
  const where = document.getElementById("where");
  const [back, onward] = ["back", "onward"].map((id) => document.getElementById(id));
  const several = data.prompts.length > 1;
  const total = data.columns.reduce((sum, column) => sum + column.text.length, 0);
  const keys = new Map();
  let sorted = { key: null, falling: false };
  let page = 0;
  let pattern = null;
  let found = data.columns.map((column) => [...column.text.keys()]);

  function keysOf(column, key) {
    if (!keys.has(key)) keys.set(key, data.columns.map((each) => each[key].map(Number)));
    return keys.get(key)[column];
  }

  // What has no number comes last either way; equal ones stay in the order in which they were drawn.
  function arranged(rows, column) {
    if (sorted.key === null) return rows;
    const value = keysOf(column, sorted.key);
    const sign = sorted.falling ? -1 : 1;
    return rows.sort((a, b) => {
      const [x, y] = [value[a], value[b]];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
      return x === y ? a - b : sign * (x < y ? -1 : 1);
    });
  }

  function update() {
    const words = input.value.trim();
    pattern = words ? new RegExp(words.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), "giu") : null;
    const chosen = prompt && prompt.value !== "" ? Number(prompt.value) : null;
    const hit = (text) => text.search(pattern) >= 0;
    const asked = pattern && data.prompts.map(hit);
    found = data.columns.map((column, c) => {
      let rows = [...column.text.keys()];
      if (chosen !== null) rows = rows.filter((k) => column.prompt[k] === chosen);
      if (pattern) {
        rows = rows.filter((k) => (several && asked[column.prompt[k]]) || hit(column.text[k]));
      }
      return arranged(rows, c);
    });
    for (const button of buttons) {
      const head = button.closest("th");
      if (button.dataset.sort !== sorted.key) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", sorted.falling ? "descending" : "ascending");
    }
    const left = found.reduce((sum, rows) => sum + rows.length, 0);
    matches.textContent = words || chosen !== null
      ? `${left.toLocaleString("en")} of ${total.toLocaleString("en")} completions` : "";
    page = 0;
    show();
  }

  function show() {
    const rows = Math.max(0, ...found.map((each) => each.length));
    const pages = Math.max(1, Math.ceil(rows / data.page));
    const start = page * data.page;
    const end = Math.min(rows, start + data.page);
    const made = [];
    for (let row = start; row < end; row += 1) {
      const tr = document.createElement("tr");
      data.columns.forEach((column, c) => tr.append(...cells(column, found[c][row])));
      made.push(tr);
    }
    body.replaceChildren(...made);
    where.textContent = rows ? `${(start + 1).toLocaleString("en")} to ${end.toLocaleString("en")} of ${rows.toLocaleString("en")}` : "none";
    back.disabled = page === 0;
    onward.disabled = page >= pages - 1;
  }

  function element(name, className, ...children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children);
    return made;
  }

  // Built from text nodes alone: what a model wrote is never parsed as markup.
  function marked(text) {
    const made = document.createElement("bdi");
    let end = 0;
    for (const match of pattern ? text.matchAll(pattern) : []) {
      made.append(text.slice(end, match.index), element("mark", "", match[0]));
      end = match.index + match[0].length;
    }
    made.append(text.slice(end));
    return made;
  }

  function cells(column, k) {
    const text = element("td", "start text");
    const [reward, weight] = [element("td", "number"), element("td", "number")];
    if (k === undefined) return [text, reward, weight];
    text.append(element("span", "who", element("bdi", "", column.name)));
    if (several) {
      text.append(element("span", "prompt", marked(data.prompts[column.prompt[k]])));
    }
    text.append(column.text[k].trim() ? marked(column.text[k]) : element("i", "", "(empty)"));
    if (column.cut[k]) {
      const cut = element("i", "", "\u2026");
      cut.setAttribute("aria-label", "cut off");
      text.append(cut);
    }
    reward.append(element("span", "who", "reward "), column.reward_shown[k]);
    reward.dataset.reward = column.reward[k];
    weight.append(element("span", "who", "weight "), column.weight_shown[k]);
    weight.dataset.weight = column.weight[k];
    return [text, reward, weight];
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      if (sorted.key !== key) sorted = { key, falling: true };
      else if (sorted.falling) sorted = { key, falling: false };
      else sorted = { key: null, falling: false };
      update();
    });
  }
  back.addEventListener("click", () => { page -= 1; show(); });
  onward.addEventListener("click", () => { page += 1; show(); });
  input.addEventListener("input", update);
  if (prompt) prompt.addEventListener("change", update);
  for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;
  show();
})();
