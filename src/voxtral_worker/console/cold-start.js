// The steps of the worker's start, as its `/health` shows them: which are over, which is under way.

import { element } from "./notices.js";

const NAMES = {
  server: "Server",
  libraries: "Libraries",
  model: "Model",
  vad: "Speech detection",
  "turn model": "Turn detection",
  "warm-up": "Warm-up",
  calibration: "Measuring the capacity",
};
// Steps of every start, to show before they begin.
const EXPECTED = ["server", "libraries", "model", "vad", "warm-up"];
const COUNT_MS = 100;

const seconds = (value) => `${value.toFixed(1)} s`;
const gigabytes = (bytes) => (bytes / 1e9).toFixed(bytes < 1e8 ? 2 : 1);

export class ColdStart {
  constructor() {
    this.list = element("ol", "steps");
    this.list.setAttribute("aria-label", "Steps of the start");
  }

  /** Show what `/health` has as `loading`; the step under way is counted on until the next call. */
  show({ step, since_s: sinceS, download, done }) {
    this.stop();
    const rows = done.map(({ step: name, took_s: tookS }) => row("is-done", name, seconds(tookS)));
    const known = new Set([...done.map((each) => each.step), step]);
    if (step) {
      const now = row("is-under-way", step, "");
      now.setAttribute("aria-current", "step");
      const took = now.querySelector(".took");
      const begun = performance.now() - 1000 * sinceS;
      const count = () => (took.textContent = seconds((performance.now() - begun) / 1000));
      count();
      this.timer = setInterval(count, COUNT_MS);
      if (isUnderWay(download)) now.append(...progress(download));
      rows.push(now);
    }
    for (const name of EXPECTED) if (!known.has(name)) rows.push(row("is-to-come", name, ""));
    this.list.replaceChildren(...rows);
  }

  stop() {
    clearInterval(this.timer);
  }
}

const isUnderWay = (download) => Boolean(download) && download.bytes < download.total_bytes;

function row(kind, name, took) {
  const made = element("li", `step ${kind}`);
  made.append(element("span", "step-name", NAMES[name] ?? name), element("span", "took", took));
  return made;
}

function progress({ bytes, total_bytes: total }) {
  const bar = element("progress", "step-bar");
  bar.max = total;
  bar.value = bytes;
  bar.setAttribute("aria-label", "Download of the weights");
  const percent = Math.floor((100 * bytes) / total);
  const told = `Downloading the weights: ${percent} %, ${gigabytes(bytes)} of ${gigabytes(total)} GB`;
  return [bar, element("span", "hint step-bytes", told)];
}
