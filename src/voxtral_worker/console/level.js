// The last seconds of the microphone as a moving row of bars.

const BAR_PX = 3;
const GAP_PX = 2;
// Speech lies between about -50 and -10 dB of full scale.
const QUIETEST_DB = -55;
const LOUDEST_DB = -8;

function heightOf(level) {
  const db = 20 * Math.log10(Math.max(level, 1e-6));
  return Math.min(1, Math.max(0, (db - QUIETEST_DB) / (LOUDEST_DB - QUIETEST_DB)));
}

export class LevelView {
  constructor(canvas) {
    this.canvas = canvas;
    this.bars = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.draw());
  }

  add(level, isSpeech) {
    this.bars.push({ height: heightOf(level), isSpeech });
    this.bars.splice(0, this.bars.length - 400);
    this.draw();
  }

  clear() {
    this.bars = [];
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = window.devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const style = getComputedStyle(canvas);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const step = BAR_PX + GAP_PX;
    const count = Math.floor(width / step);
    const bars = this.bars.slice(-count);
    for (let i = 0; i < count; i += 1) {
      const bar = bars[i - (count - bars.length)] ?? { height: 0, isSpeech: false };
      const tall = Math.max(2, bar.height * height);
      context.fillStyle = style.getPropertyValue(bar.isSpeech ? "--accent" : "--quiet-bar");
      context.fillRect(i * step, (height - tall) / 2, BAR_PX, tall);
    }
  }
}
