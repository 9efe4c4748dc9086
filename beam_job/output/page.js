"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const summary = data.summary;
  const byId = new Map(data.cards.map((card) => [card.id, card]));
  const key = `caption-images ${data.run}`;
  let edits = load(); // {caption} or {bad} by the card's id
  const $ = (id) => document.getElementById(id);

  // Edits are stored in both: on a busy machine Chromium sometimes reloads a local file with an older localStorage, and
  // sessionStorage ends with the tab.
  function readFrom(storage) {
    try {
      return JSON.parse(window[storage].getItem(key)) || { at: 0, edits: {} };
    } catch {
      return { at: 0, edits: {} }; // the browser stores nothing for local files
    }
  }

  function load() {
    const [one, other] = ["localStorage", "sessionStorage"].map(readFrom);
    return (one.at >= other.at ? one : other).edits;
  }

  function save() {
    try {
      for (const storage of [localStorage, sessionStorage]) {
        storage.setItem(key, JSON.stringify({ at: Date.now(), edits: edits }));
      }
    } catch {
      $("found").textContent = "This browser does not store corrections: download them before you close the page.";
    }
    showEdits();
  }

  function showEdits() {
    const count = Object.keys(edits).length;
    $("download").disabled = count === 0;
    $("download").textContent = count ? `Download corrections (${count})` : "Download corrections";
  }

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // Text from right to left must not reverse the words around it.
  const isolated = (text, className) => element("bdi", { textContent: text, className: className || "" });
  const number = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits || 0 });

  function showCounts() {
    $("run").append("run ", isolated(data.run), ", model ", isolated(summary.model));
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
      $("counts").append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
    }
  }

  function duration(seconds) {
    if (seconds < 100) return `${number(seconds, 1)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 100 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  function showCharts() {
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
    $("charts").append(figure);
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
    $("charts").append(element("figure", {}, element("h3", { textContent: title }), svg, axis));
  }

  function showReasons() {
    const reasons = Object.entries(summary.failures_by_reason);
    if (!reasons.length) return;
    const body = element("tbody");
    for (const [reason, count] of reasons) {
      body.append(element("tr", {}, element("td", {}, isolated(reason)),
        element("td", { textContent: number(count), className: "number" })));
    }
    const head = element("tr", {}, element("th", { textContent: "Failures by stage and reason", scope: "col" }),
      element("th", { textContent: "images", scope: "col", className: "number" }));
    $("reasons").append(element("table", {}, element("thead", {}, head), body));
  }

  function cardOf(card) {
    const edit = edits[card.id] || {};
    const caption = edit.caption === undefined ? card.caption : edit.caption;
    const item = element("li", { id: `card-${card.id}` });
    item.append(element("img", { src: `data:image/jpeg;base64,${card.picture}`, alt: card.caption, loading: "lazy" }));
    const text = element("p", { className: "caption" }, isolated(caption, edit.bad ? "is-bad" : ""));
    if (edit.caption !== undefined) text.classList.add("changed");
    item.append(text);
    const name = isolated(card.uri.split("/").pop());
    name.title = card.uri;
    item.append(element("span", { className: "small" }, name, card.score === null ? " · no score" : ` · score ${card.score.toFixed(2)}`));
    if (card.version !== null) item.append(buttons(card, item, caption, edit));
    return item;
  }

  function buttons(card, item, caption, edit) {
    const name = card.uri.split("/").pop();
    const change = element("button", { type: "button", textContent: "Edit", className: "edit" });
    change.setAttribute("aria-label", `Edit the caption of ${name}`);
    change.addEventListener("click", () => editor(card, item, caption));
    const bad = element("button", { type: "button", textContent: "Bad", className: "bad" });
    bad.setAttribute("aria-label", `Mark the caption of ${name} as bad`);
    bad.setAttribute("aria-pressed", String(Boolean(edit.bad)));
    bad.addEventListener("click", () => {
      if (edit.bad) delete edits[card.id];
      else edits[card.id] = { bad: true };
      refresh(card, ".bad");
    });
    const row = element("div", { className: "buttons" }, change, bad);
    if (edit.caption !== undefined) {
      const undo = element("button", { type: "button", textContent: "Undo", className: "undo" });
      undo.setAttribute("aria-label", `Undo the edit of ${name}`);
      undo.addEventListener("click", () => {
        delete edits[card.id];
        refresh(card, ".edit");
      });
      row.append(undo);
    }
    return row;
  }

  function editor(card, item, caption) {
    const area = element("textarea", { value: caption });
    area.setAttribute("aria-label", `Caption of ${card.uri.split("/").pop()}`);
    const keep = element("button", { type: "button", textContent: "Save", className: "save" });
    const cancel = element("button", { type: "button", textContent: "Cancel" });
    keep.addEventListener("click", () => {
      const words = area.value.trim().replace(/\s+/g, " ");
      if (words && words !== card.caption) edits[card.id] = { caption: words };
      else delete edits[card.id];
      refresh(card, ".edit");
    });
    cancel.addEventListener("click", () => refresh(card, ".edit"));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") cancel.click();
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        keep.click();
      }
    });
    item.querySelector(".caption").replaceWith(area);
    item.querySelector(".buttons").replaceChildren(keep, cancel);
    area.focus();
  }

  function refresh(card, focused) {
    save();
    const made = cardOf(card);
    $(`card-${card.id}`).replaceWith(made);
    made.querySelector(focused).focus();
  }

  function failureOf(failure) {
    return element("li", {}, element("p", { className: "caption" }, isolated(failure.error_message || "")),
      element("span", { className: "small" }, `${failure.stage}: `, isolated(failure.error_type), " · ", isolated(failure.uri)));
  }

  function showImages() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (...texts) => words.every((word) => texts.some((text) => (text || "").toLowerCase().includes(word)));
    const shown = $("show").value;
    const only = $("only").value;
    let items;
    let total;
    if (shown === "failures") {
      total = data.failures.length;
      items = data.failures.filter((f) => has(f.uri, f.stage, f.error_type, f.error_message)).map(failureOf);
    } else {
      const cards = data[shown].map((id) => byId.get(id));
      total = cards.length;
      items = cards.filter((card) => {
        const edit = edits[card.id] || {};
        const fits = only === "all" || (only === "edited" ? edit.caption !== undefined : Boolean(edit.bad));
        return fits && has(card.caption, card.uri, edit.caption);
      }).map(cardOf);
    }
    $("only").disabled = shown === "failures";
    $("grid").replaceChildren(...items);
    const rest = shown === "failures" && summary.failures > total ? ` (${number(summary.failures)} in total)` : "";
    const some = shown === "lowest" && data.shards_with_lowest < data.shards
      ? `; lowest scores of the first ${number(data.shards_with_lowest)} of ${number(data.shards)} shards` : "";
    $("found").textContent = `${number(items.length)} of ${number(total)} shown${rest}${some}`;
  }

  function download() {
    const lines = Object.entries(edits).flatMap(([id, edit]) => {
      const card = byId.get(id);
      return card ? [JSON.stringify({ uri: card.uri, object_version: card.version, ...edit }) + "\n"] : [];
    });
    const link = element("a", {
      href: URL.createObjectURL(new Blob(lines, { type: "application/jsonl" })),
      download: "corrections.jsonl",
    });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  showCounts();
  showCharts();
  showReasons();
  showEdits();
  showImages();
  $("search").addEventListener("input", showImages);
  $("show").addEventListener("change", showImages);
  $("only").addEventListener("change", showImages);
  $("download").addEventListener("click", download);
  // Takes over the edits of another tab, so that this one does not overwrite them.
  addEventListener("storage", (event) => {
    if (event.key !== key) return;
    edits = load();
    showEdits();
    if (!document.querySelector("#grid textarea")) showImages(); // not while a caption is being typed
  });
})();
