// The live player: plays the endless stream that comes over a WebSocket, and steers it.

const BANDS = 48;
const REPORT_MS = 200; // how often the server is told where the playhead is
const PAUSED_REPORT_MS = 60_000; // the same while paused: who says nothing for long loses the place
const SILENCE_MS = 10_000; // without a message for so long, the connection is taken for dead
const DELAYS = [0.5, 1, 2, 4, 5]; // seconds before each further try to connect
const NOTICE_MS = 6000;
const KEEP_BEHIND = 20; // seconds of buffer kept behind the playhead
const KEEP_AHEAD = 20; // seconds of a shared stream taken in while it is paused here
const KEEP_FRAGMENTS = 14; // seconds of fragments kept behind the playhead, for download and spectrum
const DOWNLOAD = 10; // seconds in a download
const FAR_BEHIND = 3; // seconds behind the live edge that make the playhead jump
const EDGE_DISTANCE = 0.5;
const ENOUGH = 0.3; // seconds to be buffered before a stalled picture goes on
const STRIP_SECONDS = 6;
const STRIP_PLAYHEAD = 0.8;

const Source = globalThis.MediaSource ?? globalThis.ManagedMediaSource;
const element = (id) => document.getElementById(id);
const video = element("video");

// ---------------------------------------------------------------- playing

/** The last range of `ranges`, or null. */
function lastRange(ranges) {
  const last = ranges.length - 1;
  return last < 0 ? null : { start: ranges.start(last), end: ranges.end(last) };
}

/** Seconds left in the range that holds `time` (0 outside of all), and the start of the next range, or null. */
function around(ranges, time) {
  let left = 0;
  for (let i = 0; i < ranges.length; i++) {
    if (ranges.start(i) > time) return { left, next: ranges.start(i) };
    left = Math.max(0, ranges.end(i) - time);
  }
  return { left, next: null };
}

/** Feeds the video element and keeps its playhead where there is something to play. */
class Player {
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

// ---------------------------------------------------------------- connection

const decoder = new TextDecoder();

/** The header and the media bytes of a binary message. */
function unpack(data) {
  const size = new DataView(data).getUint32(0, true);
  const header = JSON.parse(decoder.decode(new Uint8Array(data, 4, size)));
  return { header, bytes: new Uint8Array(data, 4 + size) };
}

/** A WebSocket that can be opened again and again. */
class Link {
  #socket = null;
  #timer = 0;
  #tries = 0;
  #heard = 0;
  #checked = 0;

  /** @param on callbacks: query() -> string, text(message), media(header, bytes), lost(code) */
  constructor(on) {
    this.on = on;
  }

  open() {
    clearTimeout(this.#timer);
    const url = new URL("/ws", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.search = this.on.query();
    const socket = (this.#socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    this.#heard = performance.now();
    socket.addEventListener("message", ({ data }) => socket === this.#socket && this.#take(data));
    socket.addEventListener("close", ({ code }) => socket === this.#socket && this.#end(code));
  }

  #take(data) {
    this.#heard = performance.now();
    if (typeof data === "string") return this.on.text(JSON.parse(data));
    const { header, bytes } = unpack(data);
    this.on.media(header, bytes);
  }

  #end(code) {
    this.#socket = null;
    this.on.lost(code);
  }

  send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Give the connection up without waiting for the other side, which may be gone. */
  drop() {
    const socket = this.#socket;
    if (!socket) return;
    this.#end(1006);
    socket.close();
  }

  /** Connect again after so many seconds, or after ever longer ones. */
  again(seconds = DELAYS[Math.min(this.#tries++, DELAYS.length - 1)]) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.open(), seconds * 1000);
  }

  /** Connect now, if it waits for the time to do so. */
  hurry() {
    if (!this.#socket) this.open();
  }

  works() {
    this.#tries = 0;
  }

  /** Drop a connection that has been silent for too long; `idle` if silence is to be expected. */
  check(idle) {
    const now = performance.now();
    const throttled = now - this.#checked > 3000; // what came meanwhile may not have been handed over yet
    this.#checked = now;
    if (idle || throttled) this.#heard = now;
    else if (now - this.#heard > SILENCE_MS) this.drop();
  }
}

// ---------------------------------------------------------------- download

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The MP4 boxes between two offsets. */
function* boxes(view, from, to) {
  for (let at = from; at + 8 <= to; ) {
    const type = decoder.decode(new Uint8Array(view.buffer, view.byteOffset + at + 4, 4));
    let size = view.getUint32(at);
    let head = 8;
    if (size === 1) {
      size = Number(view.getBigUint64(at + 8));
      head = 16;
    } else if (size === 0) size = to - at;
    if (size < head) return;
    yield { type, body: at + head, end: Math.min(at + size, to) };
    at += size;
  }
}

/** The boxes at a path such as moof, traf. */
function* find(view, [type, ...rest], { body, end } = { body: 0, end: view.byteLength }) {
  for (const box of boxes(view, body, end)) {
    if (box.type !== type) continue;
    if (rest.length) yield* find(view, rest, box);
    else yield box;
  }
}

/** Ticks a second by track, from an initialisation segment. */
function timescales(init) {
  const view = viewOf(init);
  const scales = new Map();
  for (const trak of find(view, ["moov", "trak"])) {
    const [tkhd] = find(view, ["tkhd"], trak);
    const [mdhd] = find(view, ["mdia", "mdhd"], trak);
    const number = ({ body }) => view.getUint32(body + (view.getUint8(body) === 1 ? 20 : 12));
    scales.set(number(tkhd), number(mdhd));
  }
  return scales;
}

/** Where a fragment's tracks say when they begin: the track, the time in ticks, and a setter for it. */
function* decodeTimes(bytes) {
  const view = viewOf(bytes);
  for (const traf of find(view, ["moof", "traf"])) {
    const [tfhd] = find(view, ["tfhd"], traf);
    const [tfdt] = find(view, ["tfdt"], traf);
    if (!tfhd || !tfdt) continue;
    const at = tfdt.body + 4;
    const wide = view.getUint8(tfdt.body) === 1;
    yield {
      track: view.getUint32(tfhd.body + 4),
      ticks: wide ? view.getBigUint64(at) : BigInt(view.getUint32(at)),
      set: (ticks) => (wide ? view.setBigUint64(at, ticks) : view.setUint32(at, Number(ticks))),
    };
  }
}

/** One MP4 of these fragments, moved so that the first to sound or show does so at 0. */
function joined(init, fragments) {
  const scales = timescales(init);
  const copies = fragments.map((bytes) => bytes.slice());
  const begins = [...decodeTimes(copies[0])].map(({ track, ticks }) => Number(ticks) / scales.get(track));
  const base = Math.min(...begins);
  for (const copy of copies) {
    for (const { track, ticks, set } of decodeTimes(copy)) {
      const moved = ticks - BigInt(Math.round(base * scales.get(track)));
      set(moved > 0n ? moved : 0n);
    }
  }
  return new Blob([init, ...copies], { type: "video/mp4" });
}

function save(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
}

// ---------------------------------------------------------------- spectrum

/** The sound of the last seconds, moving with the playhead. */
class Spectrum {
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

// ---------------------------------------------------------------- frames shown

/** Counts the frames that reach the screen. */
class FrameMeter {
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

// ---------------------------------------------------------------- the page

const app = {
  phase: "connecting", // or ready, lost, full, unsupported
  ready: null, // the server's first message
  asked: { label: null, guidance: null, steps: null, seed: null, window: null },
  confirmed: {}, // the same as the server last gave it
  chosen: {}, // what the person chose, for the next connection
  init: null,
  fragments: [], // around the playhead: { start, end, label, turn, bytes, image }
  count: 0, // fragments of this connection
  connections: 0,
  rolled: 0,
  speed: 0,
  slow: null, // while the machine is slower than real time: { speed, steps, window }, the latter two would help
  label: null, // of the fragment that plays
  retryAt: 0,
  blocked: false, // the browser wants a click before it plays
  info: {},
};

const spectrum = new Spectrum();
const meter = new FrameMeter();
const player = new Player({
  changed: () => renderState(),
  moved: () => report(),
  stopped: () => setPaused(true),
  resumed: () => setPaused(false),
  blocked: () => {
    setPaused(true);
    app.blocked = true;
  },
  broken: () => app.count > 0 && link.drop(), // not for the last connection's source
});
const link = new Link({ query, text: takeText, media: takeMedia, lost });

function query() {
  const chosen = Object.entries(app.chosen).filter(([, value]) => value !== null);
  return new URLSearchParams(chosen).toString();
}

function spoken(label) {
  return label === null ? "no class" : String(label).replaceAll("_", " ");
}

function stateNow() {
  if (app.phase !== "ready") return app.phase;
  if (player.paused) return "paused";
  if (app.count === 0 || !player.started) return "connecting";
  return player.waiting ? "buffering" : "playing";
}

// What the server says

function takeText(message) {
  const takers = { ready: takeReady, state: takeState, error: takeError, full: takeFull, pace: takePace };
  takers[message.type]?.(message);
}

function takeReady(message) {
  Object.assign(app, { ready: message, phase: "ready", init: null, count: 0, rolled: 0, speed: 0, slow: null });
  renderSlow();
  app.connections += 1;
  player.ahead = message.ahead ?? 0;
  takeState(message);
  if (!Source.isTypeSupported(message.mime)) return giveUp();
  renderMode();
  loadInfo();
}

function takeState({ label = null, guidance = null, steps = null, seed = null, window = null }) {
  app.confirmed = { label, guidance, steps, seed, window };
  app.asked = { ...app.confirmed };
  renderAsked();
  renderState();
}

function takeError({ message }) {
  notify(message);
  if (app.phase !== "ready") {
    app.chosen = {}; // what was chosen may be what the server, started anew, does not know
    return;
  }
  app.asked = { ...app.confirmed };
  for (const name of Object.keys(app.chosen)) {
    if (app.chosen[name] !== null) app.chosen[name] = app.confirmed[name];
  }
  renderAsked();
}

/** The machine has become slower than real time, and this would help; or it no longer is. */
function takePace({ slow, speed, steps = null, window = null }) {
  app.slow = slow ? { speed, steps, window } : null;
  renderSlow();
}

function takeFull({ retry = 3 }) {
  app.phase = "full";
  app.retryAt = performance.now() + Math.max(1, retry) * 1000;
  link.drop();
}

function lost(code) {
  if (app.phase === "unsupported") return;
  const now = performance.now();
  if (code === 1013 && app.retryAt <= now) {
    app.phase = "full";
    app.retryAt = now + 3000;
  }
  if (app.phase === "full" && app.retryAt > now) link.again((app.retryAt - now) / 1000);
  else {
    app.phase = "lost";
    link.again();
  }
  renderState();
}

function giveUp() {
  app.phase = "unsupported";
  link.drop();
  renderState();
}

function takeMedia(header, bytes) {
  if (header.kind === "init") takeInit(bytes);
  else if (header.kind === "fragment" && app.init) takeFragment(header, bytes);
}

function takeInit(bytes) {
  app.init = bytes;
  if (app.count === 0) return;
  app.fragments = []; // one download can't hold fragments of two
  player.push(bytes);
}

function takeFragment({ start, end, label = null, speed, spectrum: columns }, bytes) {
  if (app.count === 0) beginStream();
  app.count += 1;
  app.rolled = end;
  app.speed = speed ?? app.speed;
  if (player.push(bytes)) {
    const before = app.fragments.at(-1);
    const turn = !before || before.label !== label;
    app.fragments.push({ start, end, label, turn, bytes, image: columns ? spectrum.image(columns) : null });
  }
  if (app.count === 1 && player.paused) sendPaused(true); // only now, so that there is a picture to look at
}

/** A new source for the picture, only now that there is something to show instead of the last picture. */
function beginStream() {
  app.fragments = [];
  player.load(app.ready.mime);
  player.push(app.init);
  meter.watch();
}

// What the server is told

let reported = 0;

/** Where the playhead is: the server generates only a little beyond it. */
function report(always = false) {
  const now = performance.now();
  const own = app.phase === "ready" && app.count > 0 && player.begun; // not the last connection's playhead
  if (!own) return;
  if (player.paused && !always && now - reported < PAUSED_REPORT_MS) return;
  if (!always && !video.seeking && now - reported < REPORT_MS * 0.75) return;
  reported = now;
  link.send({ type: "played", time: video.currentTime });
}

function canSteer() {
  return app.ready !== null && !app.ready.broadcast && app.phase !== "unsupported";
}

function sendPaused(paused) {
  if (canSteer()) link.send({ type: "pause", paused });
}

function setPaused(paused) {
  app.blocked = false;
  player.setPaused(paused);
  if (app.count > 0) sendPaused(paused);
  report(true);
}

function steer(change) {
  if (!canSteer()) return;
  Object.assign(app.asked, change);
  Object.assign(app.chosen, change);
  link.send({ type: "steer", ...change });
  renderAsked();
}

let lastRestart = { text: "", at: 0 };

function restart(change = {}) {
  if (!canSteer()) return;
  Object.assign(app.asked, change);
  const { label, seed, steps, window } = app.asked;
  const message = { type: "restart", seed, steps };
  if (label !== null) message.label = label;
  if (window !== null) message.window = window;
  renderAsked();
  // Leaving a changed field by a click on "Restart" asks for the same twice.
  const [text, at] = [JSON.stringify(message), performance.now()];
  if (text === lastRestart.text && at - lastRestart.at < 400) return;
  lastRestart = { text, at };
  link.send(message);
}

function newSeed() {
  if (!canSteer()) return;
  app.chosen.seed = null;
  restart({ seed: crypto.getRandomValues(new Uint32Array(1))[0] >>> 1 });
}

/** Begin anew with what the person chose, also for the next connection. */
function restartWith(change) {
  Object.assign(app.chosen, change);
  restart(change);
}

// What the page shows

const STATUS = {
  connecting: () => (app.ready ? "Waiting for the first picture…" : "Connecting…"),
  playing: () => "",
  buffering: () => "Buffering…",
  paused: () => (app.blocked ? "Press Play to begin" : "Paused"),
  lost: () => "Connection lost, trying again…",
  full: () => {
    const seconds = Math.ceil((app.retryAt - performance.now()) / 1000);
    return `All places are taken. ${seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again…"}`;
  },
  unsupported: () => "This browser can't play the live stream.",
};
let shownState = "";

function renderState() {
  const state = stateNow();
  const status = element("status");
  const text = STATUS[state]();
  if (state !== shownState || (state !== "unsupported" && status.textContent !== text)) {
    status.dataset.state = state;
    status.hidden = !text;
    status.replaceChildren(text);
    if (state === "unsupported") status.append(" ", plainLink());
  }
  setButton("pause", player.paused ? "Play" : "Pause", "Space");
  if (state !== shownState) announceState(state, text);
  shownState = state;
}

function plainLink() {
  const anchor = document.createElement("a");
  anchor.href = "/stream.mp4";
  anchor.textContent = "Play the plain stream, here or in VLC";
  return anchor;
}

function announceState(state, text) {
  if (["lost", "full", "unsupported", "paused"].includes(state)) announce(text);
  else if (state === "playing" && shownState !== "buffering") announce("Playing");
}

function announce(text) {
  element("live").textContent = text;
}

/** What a machine that is slower than real time can be asked for instead. */
function renderSlow() {
  element("slow").hidden = !app.slow;
  if (!app.slow) return;
  const { speed, steps, window } = app.slow;
  const broadcast = app.ready.broadcast;
  element("slowtext").textContent =
    `This machine makes only ${speed} seconds of video a second, so the picture stops and waits. ` +
    (broadcast || !(steps || window) ? "A faster machine would help." : "With less work it looks rougher, and keeps going:");
  element("fewersteps").hidden = !steps;
  element("fewersteps").textContent = `${steps} step${steps === 1 ? "" : "s"} instead of ${app.confirmed.steps}`;
  element("smallerwindow").hidden = !window;
  element("smallerwindow").textContent = `A window of ${window} frames`;
}

let noticeTimer = 0;

function notify(text) {
  const notice = element("notice");
  notice.textContent = text;
  notice.hidden = false;
  announce(text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => {
    notice.hidden = true;
    if (element("live").textContent === text) announce("");
  }, NOTICE_MS);
}

function setButton(id, text, key) {
  const button = element(id);
  if (button.textContent === text) return;
  button.textContent = text;
  button.title = `${text} (${key})`;
}

function renderMode() {
  const { classes = [], guided, sound, broadcast, width, height, guidance } = app.ready;
  element("stage").style.setProperty("--ratio", `${width} / ${height}`);
  element("shared").hidden = !broadcast;
  element("spectrum").hidden = element("mute").hidden = !sound;
  element("guidancefield").hidden = !guided;
  element("guidance").max = Math.max(8, guidance ?? 0);
  renderClasses(classes);
  renderAsked();
  for (const control of document.querySelectorAll(".steer :is(button, input)")) control.disabled = broadcast;
}

function renderClasses(classes) {
  const group = element("classes");
  element("classcard").hidden = classes.length === 0;
  const there = [...group.children].map((button) => button.dataset.label);
  if (JSON.stringify(there) === JSON.stringify(classes)) return;
  group.replaceChildren(...classes.map(classButton));
}

function classButton(label, index) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.label = label;
  button.textContent = spoken(label);
  if (index < 9) {
    button.title = `${spoken(label)} (${index + 1})`;
    button.setAttribute("aria-keyshortcuts", index + 1);
  }
  button.addEventListener("click", () => steer({ label }));
  return button;
}

const edited = new Set(); // inputs with a value that was not sent yet

function renderAsked() {
  for (const button of element("classes").children) {
    button.setAttribute("aria-pressed", button.dataset.label === app.asked.label);
  }
  for (const name of ["guidance", "steps", "seed"]) {
    if (!edited.has(name)) element(name).value = app.asked[name] ?? "";
  }
  renderGuidance();
}

function renderGuidance() {
  element("guidancevalue").textContent = Number(element("guidance").value).toFixed(1);
}

function renderMute() {
  setButton("mute", video.muted ? "Unmute" : "Mute", "M");
  element("mute").classList.toggle("strong", video.muted);
}

function renderLabel() {
  if (app.count === 0 || !player.begun) return;
  const playing = app.fragments.filter(({ start }) => start <= video.currentTime + 0.001).at(-1);
  if (!playing) return;
  const text = spoken(playing.label);
  app.label = playing.label;
  if (element("now").textContent === text) return;
  element("now").textContent = text;
  if (playing.label !== null) announce(`Now playing ${text}`);
}

function renderReadOuts() {
  meter.sample();
  element("fps").textContent = meter.fps.toFixed(1);
  element("speed").textContent = app.speed.toFixed(2);
  element("buffered").textContent = player.lead.toFixed(2);
  element("rolled").textContent = app.rolled.toFixed(1);
  element("dropped").textContent = meter.dropped;
}

async function loadInfo() {
  try {
    const response = await fetch("/api/info");
    if (!response.ok) return;
    app.info = await response.json();
    const { version, model } = app.info;
    element("about").textContent = `flowreel ${version}${model ? `, model ${model}` : ""}`;
  } catch {
    // The footer does without.
  }
}

// What the person does

function toggleMute() {
  video.muted = !video.muted;
  renderMute();
}

async function toggleFullscreen() {
  const stage = element("stage");
  try {
    if (document.fullscreenElement) await document.exitFullscreen();
    else if (stage.requestFullscreen) await stage.requestFullscreen();
    else video.webkitEnterFullscreen?.(); // iPhones know no other
  } catch {
    notify("The browser did not allow full screen.");
  }
}

function download() {
  const now = player.begun ? video.currentTime : 0;
  const last = app.fragments.filter(({ start, end }) => start < now && end > now - DOWNLOAD);
  if (!last.length || app.count === 0) return notify("There is nothing to download yet.");
  const blob = joined(app.init, last.map(({ bytes }) => bytes));
  const label = app.label === null ? [] : [String(app.label).replace(/[^\p{L}\p{N}_-]+/gu, "-")];
  save(blob, `${["flowreel", ...label, app.asked.seed].join("-")}.mp4`);
}

let guidanceTimer = 0;

function guidanceMoved() {
  edited.add("guidance");
  renderGuidance();
  clearTimeout(guidanceTimer);
  guidanceTimer = setTimeout(() => {
    edited.delete("guidance");
    const guidance = Number(element("guidance").value);
    if (guidance !== app.asked.guidance) steer({ guidance });
  }, 200);
}

/** A number was entered: begin anew with it, or put the old one back if it can't be. */
function numberEntered(name) {
  const input = element(name);
  edited.delete(name);
  if (!input.value || !input.checkValidity() || !canSteer()) return renderAsked();
  restartWith({ [name]: Number(input.value) });
}

const KEYS = {
  " ": () => setPaused(!player.paused),
  m: toggleMute,
  f: toggleFullscreen,
  r: () => restart(),
  n: newSeed,
  d: download,
};

function keyPressed(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || element("use").open) return;
  if (target.matches("input:not([type=range]), textarea, select")) return;
  const press = /^[1-9]$/.test(key) ? () => element("classes").children[key - 1]?.click() : KEYS[key.toLowerCase()];
  if (!press || (key === " " && !takesSpace(target))) return;
  event.preventDefault();
  press();
}

/** Space pauses, but it presses a button that was reached by the keyboard. */
function takesSpace(target) {
  if (!target.matches("button, a")) return true;
  if (target.matches(":focus-visible")) return false;
  target.blur(); // else some browsers press it when the key comes up
  return true;
}

// Own clips and sounds

let uploading = false;
let media = null; // the upload that the dialog asks about

async function useFile(file) {
  if (!file || !canSteer() || uploading) return;
  uploading = true;
  notify(`Uploading ${file.name}…`);
  try {
    const answer = await upload(file);
    if (answer.video) askUse(answer, file.name);
    else if (answer.audio) use(answer.media, "audio");
    else notify("There is neither picture nor sound in this file.");
  } catch (error) {
    notify(error instanceof TypeError ? "The upload failed: no connection." : error.message);
  } finally {
    uploading = false;
  }
}

async function upload(file) {
  const limit = app.info.limits?.upload_mb;
  if (limit && file.size > limit * 2 ** 20) throw new Error(`The file is larger than ${limit} MB.`);
  const response = await fetch("/api/media", { method: "POST", body: file });
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw new Error(answer.error?.message ?? `The upload failed (status ${response.status}).`);
}

function askUse(answer, name) {
  media = answer.media;
  element("usename").textContent = name;
  element("use-audio").hidden = !answer.audio;
  if (!element("use").open) element("use").showModal();
}

function use(id, as) {
  const sent = link.send({ type: "use", media: id, as });
  notify(sent ? "The file is being used." : "Not connected at the moment: please try again.");
}

function useAs(as) {
  element("use").close();
  use(media, as);
}

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

function draggedOver(event) {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = canSteer() ? "copy" : "none";
  element("drop").hidden = !canSteer();
}

function dropped(event) {
  element("drop").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault(); // else the browser leaves the page for the file
  useFile(event.dataTransfer.files[0]);
}

// Wiring

function onClick(id, act) {
  element(id).addEventListener("click", () => act());
}

function wireControls() {
  onClick("mute", toggleMute);
  onClick("pause", KEYS[" "]);
  onClick("fullscreen", toggleFullscreen);
  onClick("download", download);
  onClick("newseed", newSeed);
  onClick("restart", restart);
  onClick("fewersteps", () => restartWith({ steps: app.slow.steps }));
  onClick("smallerwindow", () => restartWith({ window: app.slow.window }));
  element("fullscreen").hidden = !element("stage").requestFullscreen && !video.webkitEnterFullscreen;
  for (const type of ["input", "change"]) element("guidance").addEventListener(type, guidanceMoved);
  for (const name of ["steps", "seed"]) {
    element(name).addEventListener("input", () => edited.add(name));
    element(name).addEventListener("change", () => numberEntered(name));
    element(name).addEventListener("blur", () => edited.delete(name) && renderAsked());
  }
}

function wireFiles() {
  onClick("usefile", () => element("file").click());
  element("file").addEventListener("change", ({ target }) => {
    useFile(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  for (const as of ["prefix", "audio", "video"]) onClick(`use-${as}`, () => useAs(as));
  onClick("use-cancel", () => element("use").close());
  for (const type of ["dragenter", "dragover"]) document.addEventListener(type, draggedOver);
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) element("drop").hidden = true;
  });
  document.addEventListener("drop", dropped);
}

function wirePage() {
  document.addEventListener("keydown", keyPressed);
  video.addEventListener("volumechange", renderMute);
  document.addEventListener("fullscreenchange", () => {
    setButton("fullscreen", document.fullscreenElement ? "Leave full screen" : "Full screen", "F");
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    player.wake();
    if (app.phase === "lost") link.hurry();
  });
  addEventListener("online", () => app.phase === "lost" && link.hurry());
}

/** What is done five times a second. */
function tick() {
  player.follow();
  if (player.started && app.phase === "ready" && app.count > 0) link.works();
  report();
  link.check(app.phase === "ready" && (player.paused || (document.hidden && video.paused)));
  const oldest = player.begun ? video.currentTime - KEEP_FRAGMENTS : -Infinity;
  app.fragments = app.fragments.filter(({ end }) => end >= oldest);
  renderLabel();
  renderState();
}

function frame(stamp) {
  renderLabel();
  if (!element("spectrum").hidden) spectrum.draw(stamp, video.currentTime, app.fragments);
  requestAnimationFrame(frame);
}

window.flowreel = Object.freeze({
  get state() { return stateNow(); },
  get label() { return app.label; },
  get asked() { return app.asked.label; },
  get buffered() { return player.lead; },
  get rolled() { return app.rolled; },
  get fps() { return meter.fps; },
  get speed() { return app.speed; },
  get dropped() { return meter.dropped; },
  get fragments() { return app.count; },
  get connections() { return app.connections; },
  get stalls() { return [...player.stalls]; },
});

function start() {
  wireControls();
  wireFiles();
  wirePage();
  renderMute();
  if (!Source) return giveUp();
  link.open();
  setInterval(tick, REPORT_MS);
  setInterval(renderReadOuts, 500);
  requestAnimationFrame(frame);
}

start();
