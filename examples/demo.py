"""What `make demo` runs: a clip of each class by the shipped pipeline, with a contact sheet; no download.

python examples/demo.py OUT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from flowreel.utils.reporting import say

SECONDS = 6.0
SEED = 1

NEXT = """
Each picture (.png) shows frames and, under them, the spectrogram of their sound. What to try next:

  .venv/bin/flowreel serve                 # a live page: watch and hear it roll, change the class while it does

  source .venv/bin/activate                # for the commands below
  flowreel generate --label rain --seconds 60 --out rain.mp4          # rolls for as long as asked, in constant memory
  flowreel generate --video {out}/{label}.mp4 --label {label} --out sound.mp4    # other sound for its video
  flowreel generate --prefix {out}/{label}.mp4 --label {label} --out more.mp4    # continues it
  flowreel prepare YOUR_CLIPS data && flowreel train data run && flowreel generate run --out clip.mp4
"""

SLOW = """
That is slower than real time, because of the machine or of other work on it. Clips and rolls only take longer. The live
page says so too, and offers fewer solver steps; --steps 1 does the same for generate, for about half the work.
"""


def main(out: Path) -> None:
    say("loading the shipped model; four clips follow, each takes seconds on an idle laptop, minutes on a busy one")
    import flowreel
    from flowreel.config import GenerateConfig
    from flowreel.media import Clip
    from flowreel.pipeline.generate import generate

    pipe = flowreel.load("world")
    begun = time.perf_counter()
    for label in pipe.classes:
        config = GenerateConfig(out=str(out / f"{label}.mp4"), label=label, seconds=SECONDS, seed=SEED)
        (path,) = generate(pipe, config, print)
        print(Clip.read(path).save(path.with_suffix(".png")), flush=True)
    taken = time.perf_counter() - begun
    rate = len(pipe.classes) * SECONDS / taken
    print(f"{len(pipe.classes)} clips of {SECONDS:g} s in {taken:.0f} s: {rate:.2g} times real time")
    if rate < 1:
        print(SLOW.rstrip())
    print(NEXT.format(out=out, label=pipe.classes[0]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/demo.py OUT")
    main(Path(sys.argv[1]))
