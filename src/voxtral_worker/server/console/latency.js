// Where the time of a turn went, as a small stacked bar with its numbers.

const STAGES = [
  ["endpoint", "pause", "silence until the turn counted as over"],
  ["queue", "queue", "waiting for the engine"],
  ["encode", "hearing", "encoding the audio"],
  ["prefill", "reading", "reading the prompt"],
  ["writing", "writing", "writing the answer"],
];

function stagesOf(metrics) {
  const known = { ...metrics };
  known.writing_ms = metrics.total_ms - metrics.endpoint_ms - metrics.first_token_ms;
  return STAGES.map(([key, name, title]) => ({
    key,
    name,
    title,
    ms: Math.max(0, known[`${key}_ms`] ?? 0),
  })).filter(({ ms }) => ms >= 0.5);
}

const shown = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

export function latencyBar(metrics) {
  const stages = stagesOf(metrics);
  const whole = stages.reduce((sum, { ms }) => sum + ms, 0) || 1;
  const figure = element("div", "latency");
  const bar = element("div", "latency-bar");
  bar.setAttribute("aria-hidden", "true");
  const list = element("ul", "latency-numbers");
  list.setAttribute("aria-label", "Time this turn took");
  list.append(element("li", "latency-total", `${shown(metrics.total_ms)} in all`));
  const firstMs = (metrics.endpoint_ms ?? 0) + (metrics.first_token_ms ?? 0);
  const first = element("li", "latency-first", `first word after ${shown(firstMs)}`);
  first.title = "from the end of speech to the first piece of the answer";
  list.append(first);
  for (const { key, name, title, ms } of stages) {
    const part = element("span", `stage-${key}`);
    part.style.flexGrow = ms / whole;
    bar.append(part);
    const item = element("li", `stage-${key}`, `${name} ${shown(ms)}`);
    item.title = title;
    list.append(item);
  }
  figure.append(bar, list);
  return figure;
}
