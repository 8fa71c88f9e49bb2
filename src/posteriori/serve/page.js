"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const shown = (value) => (typeof value === "number" ? value.toPrecision(3) : String(value));

  const fill = (body, rows) => {
    body.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      for (const value of [row.text.trim() ? row.text : "(empty)", shown(row.reward), shown(row.weight)]) {
        const cell = document.createElement("td");
        cell.textContent = value;
        line.append(cell);
      }
      return line;
    }));
  };

  const say = (text, failed) => {
    at("status").textContent = text;
    at("status").className = failed ? "failed" : "";
  };

  const show = (answer) => {
    fill(at("draws"), answer.draws);
    fill(at("prior"), answer.prior);
    at("findings").replaceChildren(...answer.findings.map((finding) => {
      const item = document.createElement("li");
      item.className = finding.level;
      item.textContent = finding.message;
      return item;
    }));
    at("tables").hidden = false;
    const z = answer.log_z;
    const logZ = z ? `log Z ${shown(z.value)} \u00b1 ${shown(z.standard_error)} (${z.kind.replaceAll("_", " ")})` : "log Z unknown";
    say(`${answer.guarantee.replaceAll("_", " ")}; ${logZ}; ${shown(answer.ess)} effective of ${answer.num_draws} draws; seed ${answer.seed}`);
  };

  at("known")?.addEventListener("change", (event) => { at("prompt").value = event.target.value; });
  at("ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    const asked = { prompt: at("prompt").value, n: Number(at("n").value) };
    if (at("seed").value !== "") asked.seed = Number(at("seed").value);
    const headers = { "Content-Type": "application/json" };
    if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
    say("Drawing ...");
    try {
      const answer = await fetch("/draws", { method: "POST", headers, body: JSON.stringify(asked) });
      const found = await answer.json();
      if (answer.ok) show(found);
      else say(found.error.message, true);
    } catch (error) {
      say(`No answer: ${error.message}`, true);
    }
  });
})();
