// What the person should know, one card for each matter; every card can be put away.

/** Words of the worker's as a sentence. */
export function sentence(text) {
  const told = text.trim();
  if (!told) return "";
  return told[0].toUpperCase() + told.slice(1) + (/[.!?…]$/.test(told) ? "" : ".");
}

export class Notices {
  constructor(box, announce) {
    this.box = box;
    this.announce = announce;
    this.cards = new Map(); // key → { card, timer, text }
  }

  /** `retryAt` (ms since 1970) is counted down to; `actions` are [name, handler]; `details` is an element. */
  show(key, text, { kind = "warn", actions = [], retryAt = null, isQuiet = false, details = null } = {}) {
    this.clear(key);
    const card = element("div", `notice is-${kind}`);
    card.dataset.key = key;
    const words = element("p", "notice-text", text);
    card.append(words);
    let timer;
    if (retryAt !== null) {
      const countdown = element("span", "countdown");
      const count = () => {
        const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
        countdown.textContent = ` Trying again in ${seconds}\u00a0s.`;
      };
      count();
      timer = setInterval(count, 250);
      words.append(countdown);
    }
    for (const [name, handler] of actions) {
      const button = element("button", "plain small", name);
      button.type = "button";
      button.addEventListener("click", handler);
      card.append(button);
    }
    const close = element("button", "plain small close", "×");
    close.type = "button";
    close.setAttribute("aria-label", "Dismiss");
    close.addEventListener("click", () => this.clear(key));
    card.append(close);
    if (details) card.append(details);
    this.box.append(card);
    this.cards.set(key, { card, timer, text });
    if (!isQuiet) this.announce(text);
  }

  clear(key) {
    const known = this.cards.get(key);
    if (!known) return;
    clearInterval(known.timer);
    known.card.remove();
    this.cards.delete(key);
  }
}

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
