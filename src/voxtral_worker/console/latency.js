// Where the time of each turn went: bars on one scale, and what is usual in this session; its tokens.

import { element } from "./notices.js";

const STAGES = [
  ["endpoint", "pause", "silence until the turn counted as over"],
  ["queue", "queue", "waiting for the engine"],
  ["encode", "hearing", "encoding the audio"],
  ["prefill", "reading", "reading the prompt"],
  ["writing", "writing", "writing the answer"],
];

export const shown = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export class Latency {
  constructor(summary) {
    this.summary = summary;
    this.turns = new Map(); // key → { bar, tick, wholeMs, firstMs }
    this.tokens = null; // { read, written }, of all responses whose usage is known
  }

  clear() {
    this.turns.clear();
    this.tokens = null;
    this.#tell();
  }

  /** Add the tokens of one response. */
  count({ prompt_tokens: read, completion_tokens: written }) {
    this.tokens ??= { read: 0, written: 0 };
    this.tokens.read += read;
    this.tokens.written += written;
    this.#tell();
  }

  /** The figure of a turn; one that the turn had before no longer counts. */
  figure(key, metrics) {
    const firstMs = (metrics.endpoint_ms ?? 0) + (metrics.first_token_ms ?? 0);
    const stages = stagesOf(metrics);
    const wholeMs = stages.reduce((sum, { ms }) => sum + ms, 0);
    const figure = element("div", "latency");
    const track = element("div", "latency-track");
    track.setAttribute("aria-hidden", "true");
    const bar = element("div", "latency-bar");
    const tick = element("span", "latency-tick");
    track.append(bar, tick);
    const list = element("ul", "latency-numbers");
    list.setAttribute("aria-label", "Time this turn took");
    const first = element("li", "latency-first", `first word after ${shown(firstMs)}`);
    first.title = "from the end of speech to the first piece of the answer";
    list.append(first, element("li", "latency-total", `${shown(metrics.total_ms)} in all`));
    for (const { key: stage, name, title, ms } of stages) {
      const part = element("span", `stage-${stage}`);
      part.style.flexGrow = ms / (wholeMs || 1);
      bar.append(part);
      const item = element("li", `stage-${stage}`, `${name} ${shown(ms)}`);
      item.title = title;
      list.append(item);
    }
    figure.append(track, list);
    this.turns.set(key, { bar, tick, wholeMs, firstMs });
    this.#tell();
    return figure;
  }

  #tell() {
    const turns = [...this.turns.values()];
    const scaleMs = Math.max(1, ...turns.map(({ wholeMs }) => wholeMs));
    for (const { bar, tick, wholeMs, firstMs } of turns) {
      bar.style.width = `${(100 * wholeMs) / scaleMs}%`;
      tick.style.left = `${(100 * Math.min(firstMs, wholeMs)) / scaleMs}%`;
    }
    const firsts = turns.map(({ firstMs }) => firstMs).sort((a, b) => a - b);
    this.summary.hidden = !firsts.length;
    if (!firsts.length) return;
    const counted = `${firsts.length} ${firsts.length === 1 ? "turn" : "turns"}`;
    const median = shown(quantile(firsts, 0.5));
    const p95 = shown(quantile(firsts, 0.95));
    const parts = [counted, `first word: median ${median}, p95 ${p95}`];
    if (this.tokens) {
      const [read, written] = [this.tokens.read, this.tokens.written].map((n) => n.toLocaleString("en"));
      parts.push(`tokens: ${read} in, ${written} out`);
    }
    this.summary.textContent = parts.join(" · ");
  }
}

/** The smallest of the sorted values that at least this share does not exceed. */
export function quantile(sorted, share) {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

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
