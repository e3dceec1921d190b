"use strict";
// Draws what the page's data says: budgets by Plotly, tables sorted by DataTables, runs on demand.
const data = JSON.parse(document.getElementById("data").textContent);
const config = { displaylogo: false, responsive: true };
const layout = (more) => ({ margin: { t: 20, r: 20, b: 50, l: 60 }, height: 420, hovermode: "closest", plot_bgcolor: "#fff", ...more });

function budgets(number, share) {
  const table = data.tables[number];
  const scale = share ? table.full : 1;
  const traces = Object.entries(table.rows).map(([name, row]) => {
    const look = data.looks[name];
    return {
      name, x: row.x, y: row.y.map((y) => y / scale), mode: "lines+markers",
      line: { color: look.color, dash: look.dash, width: 2 }, marker: { symbol: look.symbol, size: 7 },
      error_y: {
        type: "data", symmetric: false, thickness: 1, width: 3,
        array: row.high.map((y, k) => (y - row.y[k]) / scale), arrayminus: row.low.map((y, k) => (row.y[k] - y) / scale),
      },
    };
  });
  if (table.frontier.x.length) {
    traces.push({
      name: "efficient frontier", x: table.frontier.x, y: table.frontier.y.map((y) => y / scale), mode: "lines",
      line: { color: "#2a7d2a", dash: "dot", width: 3 },
    });
  }
  Plotly.react(`budgets${number}`, traces, layout({
    xaxis: { title: { text: "budget" }, type: table.log ? "log" : "linear", tickvals: table.ticks, ticktext: table.labels },
    yaxis: { title: { text: share ? "share of the best at the full budget" : table.what } },
  }), config);
}

data.tables.forEach((table, number) => {
  budgets(number, false);
  const place = document.querySelector(`[data-figure="${number}"]`);
  if (!table.full) return; // the full budget was not trained
  for (const [label, share] of [["plain", false], ["as a share of the full budget's best", true]]) {
    const button = document.createElement("button");
    button.textContent = label;
    button.setAttribute("aria-pressed", String(!share));
    button.onclick = () => {
      for (const other of place.children) other.setAttribute("aria-pressed", String(other === button));
      budgets(number, share);
    };
    place.append(button);
  }
});

const chosen = new Set();
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

function title(run) {
  const { row, budget, seed, task } = run.figures;
  return `${row}, ${budget}, seed ${seed} (${task})`;
}

function showRuns() {
  const picked = [...chosen].map((number) => data.runs[number]);
  const traces = picked.flatMap((run, k) => {
    const line = { color: COLOURS[k % COLOURS.length], width: 1.6 };
    const common = { x: run.curve.steps ?? [], mode: "lines", line, legendgroup: String(k), connectgaps: true };
    return [
      { ...common, name: title(run), y: run.curve.loss ?? [], yaxis: "y" },
      { ...common, name: run.metric, y: run.curve[run.metric] ?? [], yaxis: "y2", mode: "lines+markers", showlegend: false },
      { ...common, name: "rate / base", y: run.curve.factor ?? [], yaxis: "y3", showlegend: false },
    ];
  });
  if (!picked.length) {
    Plotly.purge("curves");
    document.getElementById("details").replaceChildren();
    return;
  }
  Plotly.react("curves", traces, layout({
    height: 640, xaxis: { title: { text: "updates" } }, legend: { orientation: "h", y: 1.08 },
    yaxis: { title: { text: "training loss" }, type: "log", domain: [0.68, 1] },
    yaxis2: { title: { text: picked[0].metric }, domain: [0.34, 0.64] },
    yaxis3: { title: { text: "rate / base" }, domain: [0, 0.3] },
  }), config);
  const details = document.getElementById("details");
  details.replaceChildren(...picked.map((run) => {
    const part = document.createElement("section");
    const head = document.createElement("h3");
    head.textContent = title(run);
    const list = document.createElement("dl");
    for (const [key, value] of [...Object.entries(run.figures), ...Object.entries(run.spec).map(([k, v]) => [`spec: ${k}`, v])]) {
      const term = document.createElement("dt");
      const said = document.createElement("dd");
      term.textContent = key.replaceAll("_", " ");
      said.textContent = String(value);
      list.append(term, said);
    }
    part.append(head, list);
    return part;
  }));
}

function choose(row) {
  const number = Number(row.dataset.run);
  if (!chosen.delete(number)) chosen.add(number);
  row.classList.toggle("chosen", chosen.has(number));
  showRuns();
}

document.getElementById("runs").addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-run]");
  if (row) choose(row);
});
document.getElementById("runs").addEventListener("keydown", (event) => {
  const row = event.target.closest("tr[data-run]");
  if (row && event.key === "Enter") choose(row);
});

(async () => {
  const bytes = Uint8Array.from(atob(document.getElementById("datatables").textContent), (c) => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "application/javascript" }));
  const { ITable } = await import(url);
  URL.revokeObjectURL(url);
  for (const table of document.querySelectorAll("table.sortable")) {
    const many = table.id === "runs";
    new ITable(table, {
      paging: many && table.tBodies[0].rows.length > 25, pageLength: 25, searching: many, info: many, order: [],
      autoWidth: false,
    });
  }
  document.body.dataset.ready = "true";
})();
