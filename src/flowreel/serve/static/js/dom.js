// What all modules use: elements of the document, and names as they are shown.

export const Source = globalThis.MediaSource ?? globalThis.ManagedMediaSource;
export const element = (id) => document.getElementById(id);
export const video = element("video");

/** The name of a class as it is shown. */
export function spoken(label) {
  return label === null ? "no class" : String(label).replaceAll("_", " ");
}
