// Tools that live in this page: what the model calls is seen at once.

import { element } from "./notices.js";

const ROOMS = ["kitchen", "bedroom", "bathroom", "garage", "living room"];
const DEVICES = ["light", "fan", "heater", "radio"];
const UNITS = { seconds: 1, minutes: 60, hours: 3600 };
const MOST_TIMERS = 5;

const tool = (name, description, properties) => ({
  type: "function",
  function: {
    name,
    description,
    parameters: { type: "object", properties, required: Object.keys(properties) },
  },
});

export const TOOLS = [
  tool("set_device", "Turn a device in a room on or off.", {
    room: { type: "string", enum: ROOMS },
    device: { type: "string", enum: [...DEVICES, "lights"] },
    on: { type: "boolean" },
  }),
  tool("set_timer", "Start a timer.", {
    amount: { type: "integer", minimum: 1 },
    unit: { type: "string", enum: Object.keys(UNITS) },
  }),
  tool("dial", "Call a number.", { digits: { type: "string", pattern: "^[0-9]+$" } }),
];

export class Tools {
  constructor({ house, timers, phone }) {
    this.house = house;
    this.timers = timers;
    this.phone = phone;
    this.lamps = new Map(); // "room device" → element
    for (const room of ROOMS) {
      const row = element("div", "room");
      row.append(element("span", "room-name", room));
      for (const device of DEVICES) row.append(this.#lamp(room, device));
      house.append(row);
    }
    setInterval(() => this.#count(), 250);
  }

  /** Do what was called: { content, isError }. */
  call(name, given) {
    const act = { set_device: this.#setDevice, set_timer: this.#setTimer, dial: this.#dial }[name];
    if (!act) return { content: `this page has no tool ${name}`, isError: true };
    const wrong = act.call(this, given ?? {});
    return wrong ? { content: wrong, isError: true } : { content: "done", isError: false };
  }

  #lamp(room, device) {
    const lamp = element("span", "lamp");
    const bulb = element("span", "bulb");
    bulb.setAttribute("aria-hidden", "true");
    lamp.append(bulb, element("span", "lamp-name", device), element("span", "lamp-state", "off"));
    this.lamps.set(`${room} ${device}`, lamp);
    return lamp;
  }

  #setDevice({ room, device, on }) {
    const lamp = this.lamps.get(`${room} ${device === "lights" ? "light" : device}`);
    if (!lamp) return `there is no ${device} in the ${room}`;
    lamp.classList.toggle("is-on", on === true);
    lamp.querySelector(".lamp-state").textContent = on === true ? "on" : "off";
    return "";
  }

  #setTimer({ amount, unit }) {
    const known = UNITS[unit] ?? UNITS[`${unit}s`];
    if (!known || !(amount > 0)) return `a timer cannot run ${amount} ${unit}`;
    if (this.timers.childElementCount >= MOST_TIMERS) this.timers.firstElementChild.remove();
    const timer = element("li", "timer");
    timer.append(element("span", "", `${amount} ${unit}`), element("span", "timer-left"));
    timer.dataset.endsAt = Date.now() + 1000 * known * amount;
    this.timers.append(timer);
    this.#count();
    return "";
  }

  #dial({ digits }) {
    if (!/^[0-9*#+ -]+$/.test(digits ?? "")) return `${digits} is no number`;
    this.phone.textContent = `Dialled ${digits}`;
    return "";
  }

  #count() {
    for (const timer of this.timers.children) {
      const seconds = Math.ceil((Number(timer.dataset.endsAt) - Date.now()) / 1000);
      const [minutes, rest] = [Math.floor(seconds / 60), String(Math.max(0, seconds % 60)).padStart(2, "0")];
      timer.querySelector(".timer-left").textContent = seconds > 0 ? `${minutes}:${rest}` : "over";
      timer.classList.toggle("is-over", seconds <= 0);
    }
  }
}
