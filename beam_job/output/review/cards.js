function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Text from right to left must not reverse the words around it.
const isolated = (text, className) => element("bdi", { textContent: text, className: className || "" });
const number = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits || 0 });

// Pictures are in the page, or in style sheets beside it, which are loaded when they are needed.
class Pictures {
  constructor(folder) {
    this.folder = folder;
    this.sheets = new Map(); // the element that a sheet applies to, and its loading
  }

  async show(image, card) {
    if (card.picture) image.src = `data:image/jpeg;base64,${card.picture}`;
    if (card.sheet === undefined) return;
    const properties = await this.sheet(card.sheet);
    const picture = properties.getPropertyValue(`--p${card.id}`).trim().slice(1, -1);
    if (picture) image.src = `data:image/jpeg;base64,${picture}`;
    else image.alt = `${card.caption} (its picture is missing: ${this.folder} must lie beside the page)`;
  }

  sheet(name) {
    if (!this.sheets.has(name)) {
      const place = element("span", { id: `sheet-${name}`, hidden: true });
      const link = element("link", { rel: "stylesheet", href: `${this.folder}/${String(name).padStart(5, "0")}.css` });
      document.body.append(place);
      document.head.append(link);
      this.sheets.set(name, new Promise((loaded) => {
        link.onload = link.onerror = () => loaded(getComputedStyle(place));
      }));
    }
    return this.sheets.get(name);
  }
}

// The original, where a browser can open it: on the reader's disk, on the web, or in a bucket.
function original(uri) {
  const escaped = (path) => path.split("/").map(encodeURIComponent).join("/");
  if (uri.includes("#")) return null; // a member of an archive or a row of a table
  if (uri.startsWith("/")) return `file://${escaped(uri)}`;
  if (uri.startsWith("gs://")) return `https://storage.cloud.google.com/${escaped(uri.slice(5))}`;
  return /^(https?|file):\/\//.test(uri) ? uri : null;
}

// A caption beside its picture. `act(name, card, item)` is called for what a person does.
function cardOf(card, edits, pictures, act) {
  const shown = edits.shown(card);
  const name = card.uri.split("/").pop();
  const item = element("li", { id: `card-${card.id}`, tabIndex: -1 });
  item.card = card;
  const image = element("img", { alt: card.caption });
  if (card.picture || card.sheet !== undefined) {
    const enlarge = element("button", { type: "button", className: "picture" }, image);
    enlarge.setAttribute("aria-label", `Larger picture of ${name}`);
    enlarge.addEventListener("click", () => act("enlarge", card, item));
    item.append(enlarge);
    pictures.show(image, card);
  }
  if (shown.draft === undefined) item.append(...words(card, shown, edits, act, item));
  const file = isolated(name);
  file.title = card.uri;
  const score = card.score === null ? "no score" : `score ${card.score.toFixed(2)}`;
  const notes = [score, card.low ? "low confidence" : "", shown.sent ? "downloaded" : ""].filter(Boolean);
  item.append(element("span", { className: "small" }, file, ` · ${notes.join(" · ")}`));
  if (!card.correctable) return item;
  if (shown.draft === undefined) item.append(buttons(card, shown, act, item, name));
  else item.append(...editor(card, shown, act, item, name));
  return item;
}

function words(card, shown, edits, act, item) {
  const text = element("p", { className: "caption" }, isolated(shown.caption, shown.bad ? "is-bad" : ""));
  if (shown.edited) text.classList.add("changed");
  if (shown.right) text.classList.add("is-right");
  const others = card.correctable ? card.others.filter((other) => other !== shown.caption) : [];
  if (!others.length) return [text];
  const list = element("ul", { className: "others" });
  for (const other of others) {
    const take = element("button", { type: "button", textContent: other });
    take.setAttribute("aria-label", `Take this caption instead: ${other}`);
    take.addEventListener("click", () => act("take", card, item, other));
    list.append(element("li", {}, take));
  }
  return [text, list];
}

function buttons(card, shown, act, item, name) {
  const row = element("div", { className: "buttons" });
  const add = (action, text, label, pressed) => {
    const button = element("button", { type: "button", textContent: text, className: action });
    button.setAttribute("aria-label", label);
    if (pressed !== undefined) button.setAttribute("aria-pressed", String(pressed));
    button.addEventListener("click", () => act(action, card, item));
    row.append(button);
  };
  add("right", "Right", `Mark the caption of ${name} as right`, shown.right);
  add("edit", "Edit", `Edit the caption of ${name}`);
  add("bad", "Bad", `Mark the caption of ${name} as bad`, shown.bad);
  if (shown.edited) add("undo", "Undo", `Undo the edit of ${name}`);
  return row;
}

function editor(card, shown, act, item, name) {
  const area = element("textarea", { value: shown.draft });
  area.setAttribute("aria-label", `Caption of ${name}`);
  const save = element("button", { type: "button", textContent: "Save", className: "save" });
  const cancel = element("button", { type: "button", textContent: "Cancel", className: "cancel" });
  area.addEventListener("input", () => act("type", card, item, area.value));
  save.addEventListener("click", () => act("save", card, item, area.value));
  cancel.addEventListener("click", () => act("cancel", card, item));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") cancel.click();
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      save.click();
    }
  });
  return [area, element("div", { className: "buttons" }, save, cancel)];
}

function failureOf(failure) {
  return element("li", { tabIndex: -1 }, element("p", { className: "caption" }, isolated(failure.error_message || "")),
    element("span", { className: "small" }, `${failure.stage}: `, isolated(failure.error_type), " · ", isolated(failure.uri)));
}
