// The connection to the server: a WebSocket that is opened again when it breaks.

const SILENCE_MS = 10_000; // without a message for so long, the connection is taken for dead
const DELAYS = [0.5, 1, 2, 4, 5]; // seconds before each further try to connect

const decoder = new TextDecoder();

/** The header and the media bytes of a binary message. */
function unpack(data) {
  const size = new DataView(data).getUint32(0, true);
  const header = JSON.parse(decoder.decode(new Uint8Array(data, 4, size)));
  return { header, bytes: new Uint8Array(data, 4 + size) };
}

/** A WebSocket that can be opened again and again. */
export class Link {
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
