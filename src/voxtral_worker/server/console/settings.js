// The settings of the session, read from the form and written back as the worker has them.

const READ = {
  mode: (field) => field.value,
  vad_sensitivity: (field) => Number(field.value),
  temperature: (field) => Number(field.value),
  language: (field) => field.value || null,
  interim: (field) => field.checked,
};

export class SettingsForm {
  constructor(form, onChange) {
    this.form = form;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => this.#showNumbers());
    form.addEventListener("change", ({ target }) => {
      if (target.name in READ) onChange({ [target.name]: READ[target.name](target) });
    });
    this.#showNumbers();
  }

  // All of them, as the form has them now.
  values() {
    const { elements } = this.form;
    return Object.fromEntries(
      Object.entries(READ).map(([name, read]) => [name, read(elements.namedItem(name))]),
    );
  }

  show(config) {
    const { elements } = this.form;
    for (const name of Object.keys(READ)) {
      const field = elements.namedItem(name);
      if (field.type === "checkbox") field.checked = config[name];
      else field.value = config[name] ?? "";
    }
    this.#showNumbers();
  }

  #showNumbers() {
    for (const output of this.form.querySelectorAll("output")) {
      output.value = this.form.elements.namedItem(output.htmlFor.value).value;
    }
  }
}
