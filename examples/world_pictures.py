"""The README's moving pictures: a generated clip of each class of the shipped model above its spectrogram.

python examples/world_pictures.py docs/world
"""

from __future__ import annotations

import sys
from pathlib import Path

import flowreel
from flowreel.media import with_spectrogram


def main(out: Path) -> None:
    pipe = flowreel.load("world")
    for label in pipe.classes:
        clip = pipe.generate(label=label, seconds=6, seed=1)
        path = with_spectrogram(clip).save(out / f"{label}.webp")
        print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/world_pictures.py OUT")
    main(Path(sys.argv[1]))
