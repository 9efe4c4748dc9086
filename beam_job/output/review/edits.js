// What a person has checked, edited and typed. A card's entry has some of these members:
//   at: when it changed; caption: the person's; bad; right; draft: text that is still being typed;
//   withdrawn: a correction that the output has is to be dropped; sent: its line in the last download.
class Edits {
  constructor(name) {
    this.key = `caption-images ${name}`;
    this.entries = {};
    this.merge();
  }

  static of(card) {
    return `${card.id} ${card.version}`; // another version of the image is another caption
  }

  get(card) {
    return this.entries[Edits.of(card)] || {};
  }

  // Changes members of the card's entry; a member that becomes undefined is removed. Returns whether it was stored.
  change(card, members) {
    const entry = { ...this.get(card), ...members, at: Date.now() };
    this.entries[Edits.of(card)] = JSON.parse(JSON.stringify(entry));
    return this.store();
  }

  // Two stores: on a busy machine Chromium sometimes reloads a local file with an older localStorage, and
  // sessionStorage ends with the tab.
  store() {
    this.merge();
    try {
      for (const storage of [localStorage, sessionStorage]) storage.setItem(this.key, JSON.stringify(this.entries));
      return true;
    } catch {
      return false; // the browser stores nothing for local files
    }
  }

  // Takes over what other tabs have changed: of each card the newer entry counts.
  merge() {
    for (const name of ["localStorage", "sessionStorage"]) {
      let stored = {};
      try {
        stored = JSON.parse(window[name].getItem(this.key)) || {};
      } catch {
        continue;
      }
      for (const [id, entry] of Object.entries(stored)) {
        if (!(this.entries[id] && this.entries[id].at >= entry.at)) this.entries[id] = entry;
      }
    }
  }

  // The caption to show, and whether it is bad, with the correction that the output has.
  shown(card) {
    const entry = this.get(card);
    const before = entry.withdrawn ? {} : card.correction || {};
    const edited = entry.caption !== undefined ? entry.caption : before.caption;
    return {
      caption: edited === undefined ? card.caption : edited,
      edited: edited !== undefined,
      bad: Boolean(entry.bad || (before.bad && entry.caption === undefined)),
      right: Boolean(entry.right),
      draft: entry.draft,
      sent: entry.sent !== undefined && entry.sent === this.line(card),
    };
  }

  isChecked(card) {
    const shown = this.shown(card);
    return shown.edited || shown.bad || shown.right;
  }

  // The card's line of the corrections file, or undefined.
  line(card) {
    const entry = this.get(card);
    const image = { uri: card.uri, object_version: card.version };
    if (entry.bad) return JSON.stringify({ ...image, bad: true });
    if (entry.caption !== undefined) return JSON.stringify({ ...image, caption: entry.caption });
    return entry.withdrawn ? JSON.stringify({ ...image, bad: false }) : undefined;
  }
}
