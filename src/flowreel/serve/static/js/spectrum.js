// Draws the spectrum of the last seconds of audio, moving with the playhead.

import { element, spoken } from "./dom.js";

const BANDS = 48;
const STRIP_SECONDS = 6;
const STRIP_PLAYHEAD = 0.8;

/** The sound of the last seconds, moving with the playhead. */
export class Spectrum {
  #canvas = element("spectrum");
  #context = this.#canvas.getContext("2d");
  #still = matchMedia("(prefers-reduced-motion: reduce)");
  #accent = getComputedStyle(this.#canvas).color.match(/\d+/g).slice(0, 3).map(Number);
  #drawn = { stamp: 0, key: "" };

  constructor() {
    new ResizeObserver(() => this.#fit()).observe(this.#canvas);
  }

  #fit() {
    const scale = devicePixelRatio || 1;
    this.#canvas.width = Math.max(1, Math.round(this.#canvas.clientWidth * scale));
    this.#canvas.height = Math.max(1, Math.round(this.#canvas.clientHeight * scale));
    this.#drawn.key = "";
  }

  /** A small picture of a fragment's columns, or null without any. */
  image(base64) {
    const levels = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const columns = Math.floor(levels.length / BANDS);
    if (!columns) return null;
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = BANDS;
    const image = new ImageData(columns, BANDS);
    for (let i = 0; i < columns * BANDS; i++) {
      const row = BANDS - 1 - (i % BANDS);
      image.data.set(this.#colour(levels[i] / 255), 4 * (row * columns + Math.floor(i / BANDS)));
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  /** From transparent through the accent to white. */
  #colour(level) {
    const white = Math.max(0, level - 0.6) / 0.4;
    return [...this.#accent.map((part) => part + (255 - part) * white), 255 * Math.min(1, level / 0.6)];
  }

  draw(stamp, now, fragments) {
    const wait = this.#still.matches ? 200 : 0;
    const key = `${now} ${fragments.at(-1)?.end} ${fragments.length}`;
    if (stamp - this.#drawn.stamp < wait || key === this.#drawn.key) return;
    this.#drawn = { stamp, key };
    const { width, height } = this.#canvas;
    const line = Math.round(width * STRIP_PLAYHEAD);
    const place = (time) => Math.round(line + ((time - now) * line) / STRIP_SECONDS);
    this.#context.clearRect(0, 0, width, height);
    this.#drawSound(fragments, place);
    this.#dim(line);
    this.#drawLabels(fragments, place);
  }

  #drawSound(fragments, place) {
    this.#context.imageSmoothingEnabled = false;
    for (const { start, end, image } of fragments) {
      const [left, right] = [place(start), place(end)];
      if (!image || right < 0 || left > this.#canvas.width) continue;
      this.#context.drawImage(image, left, 0, right - left, this.#canvas.height);
    }
  }

  /** What is still to come is dimmed; a line parts it from what was heard. */
  #dim(line) {
    const { width, height } = this.#canvas;
    this.#context.fillStyle = "rgb(11 13 18 / 60%)";
    this.#context.fillRect(line, 0, width - line, height);
    this.#context.fillStyle = "#ffffff";
    this.#context.fillRect(line, 0, Math.max(1, Math.round(devicePixelRatio)), height);
  }

  #drawLabels(fragments, place) {
    const context = this.#context;
    const scale = devicePixelRatio || 1;
    context.font = `${Math.round(11 * scale)}px system-ui, sans-serif`;
    context.textBaseline = "top";
    for (const { start, label, turn } of fragments) {
      if (!turn || label === null) continue;
      const left = place(start);
      const text = spoken(label);
      context.fillStyle = "rgb(11 13 18 / 75%)";
      context.fillRect(left, 0, context.measureText(text).width + 10 * scale, 16 * scale);
      context.fillStyle = "#ffffff";
      context.fillRect(left, 0, scale, 16 * scale);
      context.fillText(text, left + 5 * scale, 2 * scale);
    }
  }
}
