// The panel beside the conversation: always there on a wide screen, a sheet over it on a narrow one.

const WIDE = "(min-width: 861px)";

export class Panel {
  constructor({ dialog, opener, closer, tabs }) {
    this.dialog = dialog;
    this.tabs = tabs;
    this.wide = window.matchMedia(WIDE);
    this.wide.addEventListener("change", () => this.#fit());
    opener.addEventListener("click", () => this.open());
    closer.addEventListener("click", () => dialog.close());
    // A click beside the sheet closes it.
    dialog.addEventListener("click", ({ target }) => {
      if (target === dialog && !this.wide.matches) dialog.close();
    });
    for (const tab of tabs) {
      tab.addEventListener("click", () => this.choose(tab.id));
      tab.addEventListener("keydown", (event) => this.#move(event));
    }
    this.#fit();
    this.choose(tabs[0].id);
  }

  open(tabId) {
    if (tabId) this.choose(tabId);
    if (!this.dialog.open) this.dialog.showModal();
  }

  choose(tabId) {
    for (const tab of this.tabs) {
      const isChosen = tab.id === tabId;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !isChosen;
    }
  }

  // By the attribute, as `show` would take the focus.
  #fit() {
    if (this.dialog.open) this.dialog.close();
    this.dialog.open = this.wide.matches;
  }

  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const shown = this.tabs.filter((tab) => !tab.hidden);
    const next = shown.at((shown.indexOf(event.target) + step) % shown.length);
    this.choose(next.id);
    next.focus();
  }
}
