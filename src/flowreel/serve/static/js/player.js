// Plays the stream: feeds the video element, keeps its playhead in the buffer, counts the frames shown.

import { Source, element, video } from "./dom.js";

const KEEP_BEHIND = 20; // seconds of buffer kept behind the playhead
const KEEP_AHEAD = 20; // seconds of a shared stream taken in while it is paused here
const FAR_BEHIND = 3; // seconds behind the live edge that make the playhead jump
const EDGE_DISTANCE = 0.5;
const ENOUGH = 0.3; // seconds to be buffered before a stalled picture goes on

/** The last range of `ranges`, or null. */
function lastRange(ranges) {
  const last = ranges.length - 1;
  return last < 0 ? null : { start: ranges.start(last), end: ranges.end(last) };
}

/** Seconds left in the range that holds `time` (0 outside of all), and the start of the next range, or null. */
export function around(ranges, time) {
  let left = 0;
  for (let i = 0; i < ranges.length; i++) {
    if (ranges.start(i) > time) return { left, next: ranges.start(i) };
    left = Math.max(0, ranges.end(i) - time);
  }
  return { left, next: null };
}

/** Feeds the video element and keeps its playhead where there is something to play. */
export class Player {
  paused = false; // by the person, or by the browser on their behalf
  begun = false; // the playhead stands in the buffer of this source
  started = false; // this source has been seen to play
  stalls = [];
  ahead = 0;
  #everStarted = false;
  #holding = false; // stalled: paused by us until enough is buffered
  #nudged = 0; // when a stall was last helped on
  #stall = null; // { since, at }: when and where the picture stood still
  #source = null;
  #buffer = null;
  #queue = [];

  /** @param on callbacks: changed(), moved(), stopped(), resumed(), blocked(), broken() */
  constructor(on) {
    this.on = on;
    video.muted = true;
    video.addEventListener("playing", () => this.#plays());
    video.addEventListener("waiting", () => this.#waits());
    video.addEventListener("timeupdate", () => this.#advances());
    video.addEventListener("pause", () => this.#stopsByItself());
    video.addEventListener("play", () => this.paused && !video.paused && this.on.resumed());
    video.addEventListener("seeking", () => this.on.moved());
    video.addEventListener("error", () => this.#source && this.on.broken());
  }

  get lead() {
    const last = lastRange(video.buffered);
    return last ? Math.max(0, last.end - video.currentTime) : 0;
  }

  get waiting() {
    return this.#stall !== null;
  }

  /** Begin with a new, empty source. */
  load(mime) {
    if (this.#everStarted && !this.paused) this.#beginStall();
    this.begun = this.started = this.#holding = false;
    this.#buffer = null;
    this.#queue = [];
    const source = (this.#source = new Source());
    if (!globalThis.MediaSource) video.disableRemotePlayback = true; // else a managed source never opens
    const url = URL.createObjectURL(source);
    source.addEventListener("sourceopen", () => this.#open(source, mime, url), { once: true });
    video.src = url;
  }

  #open(source, mime, url) {
    URL.revokeObjectURL(url);
    if (source !== this.#source) return;
    const buffer = (this.#buffer = source.addSourceBuffer(mime));
    buffer.mode = "segments";
    buffer.addEventListener("updateend", () => {
      if (buffer !== this.#buffer) return;
      this.#feed();
      this.follow();
    });
    this.#feed();
  }

  /** Take bytes into the buffer. False if they were left out: a shared stream rolls on while one viewer pauses. */
  push(bytes) {
    if (this.paused && this.lead > KEEP_AHEAD) return false;
    this.#queue.push(bytes);
    this.#feed();
    return true;
  }

  #feed() {
    const buffer = this.#buffer;
    if (!buffer || buffer.updating || this.#source.readyState !== "open") return;
    if (this.#trim(KEEP_BEHIND, 5) || !this.#queue.length) return; // a removal ends with another updateend
    try {
      buffer.appendBuffer(this.#queue[0]);
      this.#queue.shift();
    } catch (error) {
      if (error.name !== "QuotaExceededError") this.on.broken();
      else if (!this.#trim(2, 0.5)) this.#queue.shift();
    }
  }

  /** Remove what is `behind` seconds behind the playhead, if that is over `slack` seconds. */
  #trim(behind, slack) {
    const ranges = this.#buffer.buffered;
    const until = video.currentTime - behind;
    if (!ranges.length || ranges.start(0) > until - slack) return false;
    this.#buffer.remove(0, until);
    return true;
  }

  /** Begin, skip a gap, catch up or end a stall, whatever the buffer calls for now. */
  follow() {
    if (!video.buffered.length || video.seeking) return;
    if (!this.begun) this.#begin();
    else if (!this.paused) {
      if (!this.#skipGap()) this.#catchUp();
      this.#endHold();
      this.#nudge();
    }
  }

  #begin() {
    const first = video.buffered.start(0);
    if (around(video.buffered, video.currentTime).left === 0) this.#seek(first);
    this.begun = true;
    if (!this.paused) this.#play();
    this.on.changed();
  }

  #skipGap() {
    const { left, next } = around(video.buffered, video.currentTime);
    if (next === null || left > (this.waiting ? ENOUGH : 0.05)) return false;
    this.#seek(next);
    return true;
  }

  #catchUp() {
    const limit = Math.max(FAR_BEHIND, this.ahead + 2);
    const last = lastRange(video.buffered);
    if (last.end - video.currentTime > limit) this.#seek(Math.max(last.end - EDGE_DISTANCE, last.start));
  }

  #seek(time) {
    video.currentTime = time + 0.001; // rounding must not put it in front of the range
  }

  async #play() {
    try {
      await video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return; // a pause or a new source came in between
      if (video.muted) return this.on.blocked();
      video.muted = true;
      await this.#play();
    }
  }

  setPaused(paused) {
    this.paused = paused;
    this.#holding = false;
    if (paused) {
      this.#endStall();
      video.pause();
    } else if (this.begun) {
      this.follow();
      this.#play();
    }
    this.on.changed();
  }

  /** The page is visible again: browsers may have stopped the picture meanwhile. */
  wake() {
    if (this.begun && !this.paused && !this.#holding && video.paused) this.#play();
    this.follow();
  }

  #plays() {
    this.started = this.#everStarted = true;
    this.#endStall();
    this.on.changed();
  }

  #waits() {
    if (!this.started || this.paused) return;
    this.#beginStall();
    if (this.lead < this.#enough && !this.#stalledLong) {
      this.#holding = true; // played at once, each fragment would bring the next stall
      video.pause();
    }
    this.follow();
    this.on.changed();
  }

  get #enough() {
    return this.ahead > 0 ? Math.min(ENOUGH, this.ahead / 2) : ENOUGH;
  }

  get #stalledLong() {
    return this.#stall !== null && performance.now() - this.#stall.since > 3000;
  }

  #endHold() {
    if (!this.#holding || this.lead < (this.#stalledLong ? 0.1 : this.#enough)) return;
    this.#holding = false;
    this.#play();
  }

  /** After each stall Chromium wants more sound before it goes on, in the end more than there ever is ahead; a seek
   * makes it forget that. */
  #nudge() {
    const stall = this.#stall;
    if (!stall || this.#holding || video.readyState > 2 || this.lead < this.#enough) return;
    const now = performance.now();
    if (now - Math.max(stall.since, this.#nudged) < 400) return;
    this.#nudged = now;
    this.#seek(video.currentTime);
  }

  #advances() {
    this.on.moved();
    const stall = this.#stall;
    if (stall && this.started && !this.#holding && !video.seeking && video.currentTime > stall.at + 0.15) {
      if (around(video.buffered, video.currentTime).left > 0.1) this.#plays(); // not every browser says "playing"
    }
  }

  #stopsByItself() {
    const ours = this.paused || this.#holding || !this.begun || video.error;
    if (video.paused && !ours && !document.hidden) this.on.stopped();
  }

  #beginStall() {
    this.#stall ??= { since: performance.now(), at: video.currentTime };
  }

  #endStall() {
    if (!this.#stall) return;
    const seconds = (performance.now() - this.#stall.since) / 1000;
    if (seconds > 0.1) this.stalls.push(seconds);
    this.#stall = null;
  }
}

/** Counts the frames that reach the screen. */
export class FrameMeter {
  fps = 0;
  #presented = 0;
  #samples = [];
  #handle = 0;

  /** Begin to count, anew with each source. */
  watch() {
    if (!video.requestVideoFrameCallback) return;
    video.cancelVideoFrameCallback(this.#handle);
    const shown = (_, { presentedFrames }) => {
      this.#presented = presentedFrames;
      this.#handle = video.requestVideoFrameCallback(shown);
    };
    this.#handle = video.requestVideoFrameCallback(shown);
  }

  get #shown() {
    if (video.requestVideoFrameCallback) return this.#presented;
    const quality = video.getVideoPlaybackQuality?.();
    return quality ? quality.totalVideoFrames - quality.droppedVideoFrames : 0;
  }

  get dropped() {
    return video.getVideoPlaybackQuality?.().droppedVideoFrames ?? 0;
  }

  /** Measure over the last five calls. */
  sample() {
    const now = { time: performance.now() / 1000, shown: this.#shown };
    if (now.shown < (this.#samples.at(-1)?.shown ?? 0)) this.#samples = []; // a new source counts from 0
    this.#samples = [...this.#samples, now].slice(-5);
    const [first] = this.#samples;
    this.fps = now.time > first.time ? (now.shown - first.shown) / (now.time - first.time) : 0;
  }
}
