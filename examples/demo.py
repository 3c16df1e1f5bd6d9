"""What `make demo` runs: a clip of each class by the shipped pipeline, with a contact sheet; no download.

python examples/demo.py OUT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import flowreel
from flowreel.flow.noise import sample_seed
from flowreel.media import Clip

SECONDS = 6.0

NEXT = """
Each picture shows frames and, under them, the spectrogram of their sound. What to try next:
  source .venv/bin/activate
  flowreel generate --label rain --seconds 60 --out rain.mp4          # rolls for as long as asked, in constant memory
  flowreel generate --video {out}/{label}.mp4 --label {label} --out sound.mp4    # other sound for its picture
  flowreel generate --prefix {out}/{label}.mp4 --label {label} --out more.mp4    # goes on from it
  flowreel prepare YOUR_CLIPS data && flowreel train data run && flowreel generate run --out clip.mp4
"""


def main(out: Path) -> None:
    start = time.perf_counter()
    pipe = flowreel.load("world")
    seeds = [sample_seed(1, number) for number in range(len(pipe.classes))]
    chunks = pipe.clips(pipe.classes, seeds, seconds=SECONDS)
    for clips in zip(*chunks, strict=True):
        clip = Clip.join(clips)
        assert clip.label is not None
        print(*(clip.save(out / f"{clip.label}.{ending}") for ending in ("mp4", "png")))
    print(f"{len(pipe.classes)} clips of {SECONDS:g} s in {time.perf_counter() - start:.1f} s")
    print(NEXT.format(out=out, label=pipe.classes[0]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/demo.py OUT")
    main(Path(sys.argv[1]))
