"use strict";

// The figures of a run.
function showSummary(data, summary) {
  showCounts(data, summary);
  showCharts(summary);
  showReasons(summary);
}

// An output has no figures of its own.
function showOutput(data) {
  const counts = `${number(data.captions)} captions, ${number(data.failed)} failures`;
  document.getElementById("run").append("output ", isolated(data.name), `, ${counts}`);
  for (const id of ["counts", "figures"]) document.getElementById(id).remove();
}

function showCounts(data, summary) {
  document.getElementById("run").append("run ", isolated(data.name), ", model ", isolated(summary.model));
  const counts = [
    ["images", number(summary.inputs)],
    ["captions", number(summary.captions)],
    ["failures", number(summary.failures)],
    ["already done", number(summary.skipped)],
    ["images per second", summary.images_per_second === null ? "unknown" : number(summary.images_per_second, 1)],
    ["time", duration(summary.seconds)],
  ];
  if (summary.low_confidence !== null) counts.push(["low confidence", number(summary.low_confidence)]);
  if (summary.bytes_fetched) counts.push(["fetched", `${number(summary.bytes_fetched / 1e6, 1)} MB`]);
  for (const [name, value] of counts) {
    document.getElementById("counts").append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
  }
}

function duration(seconds) {
  if (seconds < 100) return `${number(seconds, 1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function showCharts(summary) {
  histogram("Scores", summary.scores, 0.1, (step) => step.toFixed(1), "closer to 0: more confident");
  histogram("Words per caption", summary.words, 1, (step) => String(step), "");
  const stages = [["model", (summary.model_share || 0) * 100]];
  const waited = Object.values(summary.wait_seconds).reduce((sum, spent) => sum + spent, 0);
  for (const [stage, spent] of Object.entries(summary.wait_seconds)) {
    stages.push([`waiting for ${stage}`, waited ? (spent / waited) * (100 - stages[0][1]) : 0]);
  }
  if (summary.model_share === null) return;
  const figure = element("figure", {}, element("h3", { textContent: "How the model's time was spent" }));
  for (const [stage, share] of stages) {
    const text = `${stage}: ${number(share)} %`;
    const meter = element("meter", { min: 0, max: 100, value: share });
    meter.setAttribute("aria-label", text);
    figure.append(element("div", {}, element("span", { textContent: text }), meter));
  }
  document.getElementById("charts").append(figure);
}

function histogram(title, counts, width, format, note) {
  const known = Object.entries(counts).map(([step, count]) => [Number(step), count]);
  if (!known.length) return;
  const low = Math.min(...known.map(([step]) => step));
  const bins = Math.round((Math.max(...known.map(([step]) => step)) - low) / width) + 1;
  const most = Math.max(...known.map(([, count]) => count));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${bins * 10} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const [mode] = known.reduce((best, bin) => (bin[1] > best[1] ? bin : best));
  svg.setAttribute("aria-label", `${title}: from ${format(low)} to ${format(low + (bins - 1) * width)}, most often ${format(mode)}`);
  for (const [step, count] of known) {
    const bar = document.createElementNS(svg.namespaceURI, "rect");
    const height = (100 * count) / most;
    const at = Math.round((step - low) / width);
    for (const [name, value] of [["x", at * 10 + 0.5], ["y", 100 - height], ["width", 9], ["height", height]]) {
      bar.setAttribute(name, value);
    }
    const label = document.createElementNS(svg.namespaceURI, "title");
    label.textContent = `${format(step)}: ${number(count)}`;
    bar.append(label);
    svg.append(bar);
  }
  const axis = element("div", { className: "axis small" });
  for (const text of [format(low), note, format(low + (bins - 1) * width)]) axis.append(element("span", { textContent: text }));
  document.getElementById("charts").append(element("figure", {}, element("h3", { textContent: title }), svg, axis));
}

function showReasons(summary) {
  const reasons = Object.entries(summary.failures_by_reason);
  if (!reasons.length) return;
  const body = element("tbody");
  for (const [reason, count] of reasons) {
    body.append(element("tr", {}, element("td", {}, isolated(reason)),
      element("td", { textContent: number(count), className: "number" })));
  }
  const head = element("tr", {}, element("th", { textContent: "Failures by stage and reason", scope: "col" }),
    element("th", { textContent: "images", scope: "col", className: "number" }));
  document.getElementById("reasons").append(element("table", {}, element("thead", {}, head), body));
}
