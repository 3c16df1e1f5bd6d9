// The live page: takes what the server sends, shows it, and sends what the viewer asks for.

import { Source, element, spoken, video } from "./dom.js";
import { around, Player, FrameMeter } from "./player.js";
import { Link } from "./connection.js";
import { joined, save } from "./mp4.js";
import { Spectrum } from "./spectrum.js";

const REPORT_MS = 200; // how often the server is told where the playhead is
const PAUSED_REPORT_MS = 60_000; // the same while paused: who says nothing for long loses the place
const NOTICE_MS = 6000;
const KEEP_FRAGMENTS = 14; // seconds of fragments kept behind the playhead, for download and spectrum
const DOWNLOAD = 10; // seconds in a download

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
