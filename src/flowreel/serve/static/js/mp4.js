// MP4 boxes: joins fragments of the stream into a file to download.

const decoder = new TextDecoder();

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
export function joined(init, fragments) {
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

export function save(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
}
