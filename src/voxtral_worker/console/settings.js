// The options of the session: a form made from the worker's own description of them.

import { element } from "./notices.js";

// What most people look for first; all others follow under "More options".
const FIRST = ["mode", "system_prompt", "voice", "language", "temperature", "silence_ms", "vad_sensitivity",
  "turn_detection", "interim"];
const WORDS = {
  mode: { label: "Mode" },
  system_prompt: { label: "System prompt", hint: "Who the model is, and how it should answer." },
  voice: { label: "Voice", none: "Text only" },
  language: { label: "Language", none: "Detect" },
  temperature: { label: "Temperature", ends: ["steady", "varied"] },
  silence_ms: { label: "Silence that ends a turn", unit: "ms" },
  vad_sensitivity: { label: "Sensitivity", ends: ["only clear speech", "quiet speech too"] },
  turn_detection: { label: "End of a turn" },
  eagerness: { label: "Eagerness", hint: "How soon a thought counts as finished." },
  reopen_ms: { label: "Going on reopens the turn", unit: "ms" },
  interim: { label: "Show my words while I speak" },
  transcript: { label: "Write down what I said" },
  barge_in: { label: "Speaking stops the answer" },
  barge_in_ms: { label: "Speech that stops the answer", unit: "ms" },
  stream: { label: "Answer word by word" },
  max_length: { label: "Longest answer", unit: "tokens" },
  top_p: { label: "Top p" },
  stop: { label: "Stop texts", hint: "One a line: the answer ends before them." },
  seed: { label: "Seed", hint: "The same seed gives the same answer." },
  tool_choice: { label: "Tool choice" },
  parallel_tool_calls: { label: "Several tools at once" },
  tool_timeout_ms: { label: "Wait for a tool", unit: "ms" },
};
const CHOICES = {
  chat: "Chat: answer what I say",
  transcribe: "Transcribe: write down what I say",
  silence: "After silence",
  semantic: "When the thought is finished",
};
const SPOKEN = ["en", "es", "fr", "pt", "hi", "de", "nl", "it"]; // what the released model was trained on
// What this page wants although the worker's default is another.
const WANTED = { interim: true, transcript: true };
const WIDEST_SLIDER = 3000;
const LONGEST_LINE = 1000; // characters; what may be longer gets a field of several lines

export class SettingsForm {
  constructor(form, { options, onChange }) {
    this.form = form;
    this.options = options;
    this.onChange = onChange;
    this.initial = {};
    for (const [name, option] of options) {
      this.initial[name] = name in WANTED ? WANTED[name] : option.initial;
    }
    this.#build();
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => this.#showNumbers());
    form.addEventListener("change", ({ target }) => this.#change(target));
    this.show(this.initial);
  }

  /** Every option as the form has it. */
  values() {
    return Object.fromEntries([...this.options.keys()].map((name) => [name, this.#read(name)]));
  }

  /** What the person has chosen: the options that are not as they were at first. */
  chosen() {
    return pick(this.values(), (name, value) => !isSame(value, this.initial[name]));
  }

  /** What a session begins with: what was chosen, and what this page wants. */
  config() {
    return pick(this.values(), (name, value) => !isSame(value, this.options.get(name).initial));
  }

  /** Put values into the form; those of options that it does not have are left out. */
  show(values) {
    for (const [name, value] of Object.entries(values)) {
      const option = this.options.get(name);
      const field = this.form.elements.namedItem(name);
      if (!option || !field) continue;
      if (option.kind === "flag") field.checked = Boolean(value);
      else if (option.kind === "lines") field.value = [value ?? []].flat().join("\n");
      else field.value = value ?? "";
      field.setAttribute("aria-invalid", "false");
    }
    this.#showNumbers();
  }

  /** The choices of an option that the worker tells elsewhere; one without any is not offered. */
  offer(name, choices) {
    const option = this.options.get(name);
    if (!option || !choices) return;
    const before = this.#read(name);
    this.options.set(name, { ...option, kind: "choice", choices });
    const old = this.form.elements.namedItem(name).closest(".field");
    const field = this.#field(name);
    field.hidden = !choices.length;
    old.replaceWith(field);
    this.show({ [name]: choices.includes(before) ? before : null });
    if (this.#read(name) !== before) this.onChange({ [name]: this.#read(name) });
  }

  /** Options as an address has them; returns the names of those that cannot be used. */
  apply(texts) {
    const values = {};
    const wrong = [];
    for (const [name, text] of texts) {
      const value = this.#parsed(name, text);
      if (value === undefined) wrong.push(name);
      else values[name] = value;
    }
    this.show(values);
    return wrong;
  }

  #parsed(name, text) {
    const option = this.options.get(name);
    if (!option) return undefined;
    if (text === "" && option.isNullable) return null;
    const number = Number(text);
    const isWithin = !(number < option.low || number > option.high);
    switch (option.kind) {
      case "flag":
        return { true: true, false: false }[text];
      case "choice":
        return option.choices.includes(text) ? text : undefined;
      case "number":
        return text !== "" && isWithin && (option.isWhole ? Number.isSafeInteger(number) : Number.isFinite(number))
          ? number
          : undefined;
      case "lines":
        return linesOf(text);
      default:
        return text.length <= (option.most ?? Infinity) ? text : undefined;
    }
  }

  #read(name) {
    const option = this.options.get(name);
    const field = this.form.elements.namedItem(name);
    if (option.kind === "flag") return field.checked;
    if (option.kind === "lines") return linesOf(field.value);
    if (option.isNullable && field.value.trim() === "") return null;
    return option.kind === "number" ? Number(field.value) : field.value;
  }

  #change({ name }) {
    if (!this.options.has(name)) return;
    const field = this.form.elements.namedItem(name);
    const isGood = field.checkValidity() && (field.value !== "" || this.#mayBeEmpty(name));
    field.setAttribute("aria-invalid", String(!isGood));
    if (isGood) this.onChange({ [name]: this.#read(name) });
    else field.reportValidity();
  }

  #mayBeEmpty(name) {
    const { kind, isNullable } = this.options.get(name);
    return isNullable || kind !== "number";
  }

  #build() {
    const more = element("details", "more");
    more.append(element("summary", "", "More options"));
    const rest = element("div", "fields");
    more.append(rest);
    const names = [...this.options.keys()];
    const first = FIRST.filter((name) => this.options.has(name));
    const others = names.filter((name) => !first.includes(name));
    for (const name of first) this.form.append(this.#field(name));
    for (const name of others) rest.append(this.#field(name));
    if (others.length) this.form.append(more);
  }

  #field(name) {
    const option = this.options.get(name);
    const words = WORDS[name] ?? { label: humanised(name), hint: option.description };
    const control = this.#control(name, option, words);
    control.name = name;
    control.id = `option-${name}`;
    if (option.kind === "flag") {
      const label = element("label", "check");
      label.append(control, words.label);
      return label;
    }
    const field = element("div", "field");
    const label = element("label", "", words.label);
    label.htmlFor = control.id;
    field.append(label, control);
    if (control.type === "range") {
      const output = element("output");
      output.htmlFor = control.id;
      output.dataset.unit = words.unit ?? "";
      label.append(output);
    } else if (words.unit) label.append(element("span", "unit", words.unit));
    if (words.ends) field.append(ends(words.ends));
    if (words.hint && !words.ends) {
      const hint = element("span", "hint", words.hint);
      hint.id = `${control.id}-hint`;
      control.setAttribute("aria-describedby", hint.id);
      field.append(hint);
    }
    return field;
  }

  #control(name, option, words) {
    if (option.kind === "choice") return this.#select(name, option, words);
    if (option.kind === "lines" || (option.kind === "text" && option.most > LONGEST_LINE)) {
      const area = element("textarea");
      area.rows = option.kind === "lines" ? 2 : 3;
      if (option.kind === "text") area.maxLength = option.most;
      return area;
    }
    const input = element("input");
    if (option.kind === "flag") input.type = "checkbox";
    if (option.kind === "text" && option.most) input.maxLength = option.most;
    if (option.kind === "number") {
      const { low, high, isWhole } = option;
      const isSlider = high - low <= WIDEST_SLIDER && !option.isNullable;
      input.type = isSlider ? "range" : "number";
      input.step = isWhole ? (isSlider && high - low > 200 ? 50 : 1) : 0.05;
      if (Math.abs(low) <= Number.MAX_SAFE_INTEGER) input.min = low;
      if (Math.abs(high) <= Number.MAX_SAFE_INTEGER) input.max = high;
    }
    return input;
  }

  #select(name, option, words) {
    const select = element("select");
    if (option.isNullable) select.add(new Option(words.none ?? "Not set", ""));
    const all = option.choices;
    if (name !== "language") {
      for (const choice of all) select.add(new Option(CHOICES[choice] ?? humanised(choice), choice));
      return select;
    }
    const names = new Intl.DisplayNames(["en"], { type: "language" });
    const group = (label, codes) => {
      const made = element("optgroup");
      made.label = label;
      for (const code of codes) made.append(new Option(names.of(code), code));
      select.append(made);
    };
    group("The model's own", SPOKEN.filter((code) => all.includes(code)));
    group("Others", all.filter((code) => !SPOKEN.includes(code)));
    return select;
  }

  #showNumbers() {
    for (const output of this.form.querySelectorAll("output")) {
      const { value } = document.getElementById(output.htmlFor.value);
      output.value = [value, output.dataset.unit].filter(Boolean).join(" ");
    }
  }
}

export function isSame(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

function pick(values, isWanted) {
  return Object.fromEntries(Object.entries(values).filter(([name, value]) => isWanted(name, value)));
}

function linesOf(text) {
  return text.split("\n").filter((line) => line !== "");
}

function humanised(name) {
  const words = name.replaceAll("_", " ").replace(/ ms$/, "");
  return words[0].toUpperCase() + words.slice(1);
}

function ends(words) {
  const line = element("span", "ends");
  line.setAttribute("aria-hidden", "true");
  line.append(...words.map((word) => element("span", "", word)));
  return line;
}
