(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const edits = new Edits(data.name);
  const pictures = new Pictures(data.sheets);
  const phone = matchMedia("(max-width: 40rem)");
  let found = []; // cards or failures that fit the search, in order
  let first = 0; // of those on this page
  let current = null; // the card that keys apply to
  let pointed = false; // whether the last thing that a person did was a click

  const size = () => (phone.matches ? 1 : 60);
  const orders = {
    shuffled: () => 0,
    lowest: (one, other) => (one.score ?? Infinity) - (other.score ?? Infinity),
    highest: (one, other) => (other.score ?? -Infinity) - (one.score ?? -Infinity),
    name: (one, other) => (one.uri < other.uri ? -1 : 1),
  };
  const filters = {
    all: () => true,
    unchecked: (card) => !edits.isChecked(card),
    low: (card) => card.low,
    right: (card) => edits.shown(card).right,
    edited: (card) => edits.shown(card).edited,
    bad: (card) => edits.shown(card).bad,
  };

  function search() {
    const asked = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (...texts) => asked.every((word) => texts.some((text) => (text || "").toLowerCase().includes(word)));
    const failures = $("show").value === "failures";
    $("order").disabled = failures;
    if (failures) {
      found = data.failures.filter((f) => has(f.uri, f.stage, f.error_type, f.error_message));
    } else {
      found = data.cards.filter((card) => filters[$("show").value](card))
        .filter((card) => has(card.caption, card.uri, edits.shown(card).caption, ...card.others))
        .sort(orders[$("order").value]);
    }
    first = 0;
    current = null;
    showPage();
    const [total, all] = failures ? [data.failures.length, data.failed] : [data.cards.length, data.captions];
    const rest = all > total ? ` (${number(all)} in total)` : "";
    $("found").textContent = `${number(found.length)} of ${number(total)} shown${rest}`;
  }

  function showPage() {
    const failures = $("show").value === "failures";
    const items = found.slice(first, first + size());
    $("grid").replaceChildren(...items.map((item) => (failures ? failureOf(item) : cardOf(item, edits, pictures, act))));
    const pages = Math.max(1, Math.ceil(found.length / size()));
    const page = Math.floor(first / size()) + 1;
    $("place").textContent = size() === 1 ? `${number(page)} of ${number(pages)}` : `page ${number(page)} of ${number(pages)}`;
    $("previous").disabled = page === 1;
    $("next").disabled = page === pages;
  }

  function turn(pages) {
    first = Math.min(Math.max(0, first + pages * size()), Math.max(0, found.length - 1));
    first -= first % size();
    showPage();
  }

  function showProgress() {
    const checked = data.cards.filter((card) => edits.isChecked(card)).length;
    $("progress").textContent = `${number(checked)} of ${number(data.cards.length)} checked`;
    const lines = data.cards.filter((card) => edits.line(card) !== undefined);
    const fresh = lines.filter((card) => !edits.shown(card).sent).length;
    const counts = fresh === lines.length ? number(lines.length) : `${number(fresh)} new, ${number(lines.length)} in all`;
    $("download").disabled = !lines.length;
    $("download").textContent = lines.length ? `Download corrections (${counts})` : "Download corrections";
  }

  function change(card, members) {
    if (!edits.change(card, members)) {
      $("found").textContent = "This browser does not store corrections: download them before you close the page.";
    }
  }

  // What a person does with a card. A caption that was typed is kept until it is undone, whatever is done to the card.
  function act(action, card, item, text) {
    const entry = edits.get(card);
    const shown = edits.shown(card);
    const corrected = card.correction !== null;
    current = card;
    if (action === "enlarge") return enlarge(card, item);
    if (action === "type") change(card, { draft: text });
    if (action === "edit") change(card, { draft: shown.caption });
    if (action === "cancel") change(card, { draft: undefined });
    if (action === "right") change(card, { right: shown.right ? undefined : true, bad: undefined, withdrawn: withdrawn(shown.bad) });
    if (action === "bad") change(card, { bad: shown.bad ? undefined : true, right: undefined, withdrawn: withdrawn(shown.bad) });
    if (action === "undo") change(card, { caption: undefined, withdrawn: corrected && card.correction.caption !== undefined ? true : entry.withdrawn });
    if (action === "take" || action === "save") save(card, text);
    if (action === "type") return showProgress();
    const made = cardOf(card, edits, pictures, act);
    item.replaceWith(made);
    showProgress();
    focusOn(made, { cancel: ".edit", save: ".edit", take: ".edit", undo: ".edit", edit: "textarea" }[action] || `.${action}`);

    function withdrawn(wasBad) {
      return wasBad && corrected && card.correction.bad ? true : entry.withdrawn;
    }
  }

  function save(card, text) {
    const typed = text.trim().replace(/\s+/g, " ");
    const own = !typed || typed === card.caption;
    const isCorrected = card.correction !== null && card.correction.caption !== undefined;
    change(card, { draft: undefined, bad: undefined, right: undefined, caption: own ? undefined : typed, withdrawn: own && isCorrected ? true : undefined });
  }

  function focusOn(item, selector) {
    const focused = item.querySelector(selector) || item;
    focused.focus();
  }

  function enlarge(card, item) {
    const dialog = $("large");
    const [image, link] = [dialog.querySelector("img"), dialog.querySelector("a")];
    const thumbnail = item.querySelector("img").src;
    const whole = original(card.uri);
    image.alt = card.caption;
    image.onerror = () => { image.onerror = null; image.src = thumbnail; }; // gone, or of a kind that browsers do not show
    image.src = whole && whole.startsWith("file:") && location.protocol === "file:" ? whole : thumbnail;
    link.hidden = whole === null;
    if (whole) link.href = whole;
    dialog.showModal();
  }

  // The card that keys apply to moves; a page's end turns the page.
  function move(step) {
    const at = found.indexOf(current);
    const next = Math.min(Math.max(0, at < 0 ? first : at + step), found.length - 1);
    if (next < 0) return;
    if (next < first || next >= first + size()) turn(next < first ? -1 : 1);
    current = found[next];
    const item = $("grid").children[next - first];
    item.focus();
    item.scrollIntoView({ block: "nearest" });
  }

  const keys = {
    j: () => move(1),
    k: () => move(-1),
    "/": () => $("search").focus(),
    e: () => press(".edit"),
    u: () => press(".undo"),
    z: () => press(".picture"),
    r: () => press(".right") && move(1),
    b: () => press(".bad") && move(1),
  };

  function press(selector) {
    const button = current && current.id && document.querySelector(`#card-${current.id} ${selector}`);
    if (button) button.click();
    return Boolean(button);
  }

  function download() {
    const cards = data.cards.filter((card) => edits.line(card) !== undefined);
    const lines = cards.map((card) => edits.line(card) + "\n");
    const link = element("a", {
      href: URL.createObjectURL(new Blob(lines, { type: "application/jsonl" })),
      download: "corrections.jsonl",
    });
    link.click();
    URL.revokeObjectURL(link.href);
    for (const card of cards) edits.change(card, { sent: edits.line(card) });
    showProgress();
    showPage();
  }

  function typing() {
    return ["TEXTAREA", "INPUT", "SELECT"].includes(document.activeElement.tagName);
  }

  for (const [value, shown] of [["low", data.cards.some((card) => card.low)], ["failures", data.failed > 0]]) {
    if (!shown) document.querySelector(`#show option[value=${value}]`).remove();
  }
  if (data.summary) showSummary(data, data.summary);
  else showOutput(data);
  showProgress();
  search();
  for (const id of ["show", "order"]) {
    $(id).addEventListener("change", () => {
      search();
      if (pointed) $(id).blur(); // keys then apply to the captions again
    });
  }
  addEventListener("pointerdown", () => { pointed = true; }, true);
  addEventListener("keydown", () => { pointed = false; }, true);
  $("search").addEventListener("input", search);
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("download").addEventListener("click", download);
  $("large").querySelector("button").addEventListener("click", () => $("large").close());
  $("grid").addEventListener("focusin", (event) => {
    const item = event.target.closest("#grid > li");
    if (item && item.card) current = item.card;
  });
  phone.addEventListener("change", () => turn(0));
  addEventListener("keydown", (event) => {
    const key = keys[event.key];
    if (!key || typing() || event.ctrlKey || event.metaKey || event.altKey || $("large").open) return;
    event.preventDefault();
    key();
  });
  // Takes over what another tab has changed, so that both show the same.
  addEventListener("storage", (event) => {
    if (event.key !== edits.key) return;
    edits.merge();
    showProgress();
    if (!typing()) showPage(); // not while a caption is being typed
  });
})();
