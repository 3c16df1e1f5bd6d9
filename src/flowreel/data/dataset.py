"""Windows of model latents from a prepared folder, in an order that can be resumed and divided among processes.

Everything is a pure function of a position: epoch ``n // len(dataset)``, clip from that epoch's permutation, window and
flip from a generator seeded by ``(seed, n)``. Step ``s`` with a global batch of ``B`` takes the positions
``s*B .. (s+1)*B - 1`` for any number of processes, so a run that is resumed with another number of processes sees the
same clips.

Shapes: T frames of the window, C channels, H W rows and columns of latents, M mel bins, F mel steps per video frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from flowreel.codec import Codec
from flowreel.config import CodecConfig, DataConfig
from flowreel.config.base import check
from flowreel.config.presets import MIRRORING
from flowreel.data.shards import MIRRORED, IndexEntry, open_shard, read_index
from flowreel.errors import InputError
from flowreel.flow.types import Latents

# The purpose of a generator is part of its seed, so that the order of an epoch and a window use different numbers.
_ORDER, _WINDOW = 0, 1


class WindowDataset(Dataset):
    """The windows of one split of a prepared folder.

    A window has ``config.window`` frames. Shorter clips are left out: ``left_out`` has their paths, their number is
    reported. ``index`` is the folder's index, ``entries`` its entries for the usable clips; ``classes`` are the class
    names, and a clip without a class has the label ``len(classes)``, the null class. ``scales`` replaces the codec
    settings of the folder, whose statistics make model latents: a model that is trained further keeps its own.

    Raises :class:`InputError` for a folder that is not prepared, an unknown split, and where no clip is long enough.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        config: DataConfig | None = None,
        seed: int = 0,
        report: Callable[[str], None] | None = None,
        scales: CodecConfig | None = None,
    ) -> None:
        config = config or DataConfig()
        check(seed >= 0, f"seed must be 0 or more, not {seed}")
        self.folder, self.split, self.config, self.seed = Path(folder), split, config, seed
        self.index = read_index(self.folder)
        self.classes: tuple[str, ...] = tuple(self.index.classes)
        self.codec_config = scales or self.index.codec
        self.timing, self.shape = self.index.timing, self.index.shape
        self._codec = Codec(self.codec_config, self.timing)
        self._mirrored = self.index.mirrored
        self._flips = self._can_flip(report)
        self._numbers = self._usable(report)
        self.entries: list[IndexEntry] = [self.index.splits[split][number] for number in self._numbers]
        self._shards: dict[str, Any] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def _can_flip(self, report: Callable[[str], None] | None) -> bool:
        """Whether the folder has latents of mirrored clips, or its latents can be mirrored."""
        can = self._mirrored or self.codec_config.video.source in MIRRORING
        if self.config.flip and not can and report:
            report(
                f"WARNING: data.flip {self.config.flip:g} is ignored: {self.folder} holds no mirrored clips, and "
                "mirrored latents of this autoencoder are not those of mirrored frames. Prepare with --flip to add them"
            )
        return can

    def _usable(self, report: Callable[[str], None] | None) -> list[int]:
        splits = self.index.splits
        if not splits.get(self.split):
            filled = ", ".join(name for name, entries in splits.items() if entries)
            raise InputError(f"{self.folder} has no clips in split {self.split!r}; it has: {filled}")
        entries = splits[self.split]
        usable = [number for number, entry in enumerate(entries) if entry.frames >= self.config.window]
        self.left_out: list[str] = [entry.path for entry in entries if entry.frames < self.config.window]
        if not usable:
            longest = max(entry.frames for entry in entries)
            raise InputError(
                f"no clip of split {self.split!r} in {self.folder} has the {self.config.window} frames of a window "
                f"(data.window): the longest has {longest}"
            )
        if self.left_out and report:
            report(f"left out {len(self.left_out)} of {len(entries)} clips, shorter than {self.config.window} frames")
        return usable

    def __len__(self) -> int:
        """The number of usable clips: an epoch."""
        return len(self.entries)

    def sample(self, n: int) -> dict[str, Any]:
        """The window at position ``n`` (0 or more) of the endless order.

        Model latents ``"video"`` (T, C, H, W) and, with audio, ``"audio"`` (T, 1, M, F), float32; ``"label"``, the
        class, or with ``config.cut`` above 0 that of every frame (T,); ``"clip"``, the clip's number in
        ``index.splits[split]``.
        """
        epoch, place = divmod(n, len(self.entries))
        number = int(self._permutation(epoch)[place])
        entry = self.entries[number]
        rng = np.random.default_rng((self.seed, _WINDOW, n))
        latents = self._window(entry, rng)
        label = entry.label
        if self.config.cut:
            label = torch.full((self.config.window,), label)
            if rng.random() < self.config.cut:
                self._cut(latents, label, rng)
        return {**latents, "label": label, "clip": self._numbers[number]}

    __getitem__ = sample

    def _window(self, entry: IndexEntry, rng: np.random.Generator) -> Latents:
        """Model latents of a random window of one clip."""
        start = int(rng.integers(entry.frames - self.config.window + 1))
        flip = rng.random() < self.config.flip and self._flips
        latents = self._codec.to_model(self._read(entry, start, flip and self._mirrored))
        if flip and not self._mirrored:
            latents["video"] = latents["video"].flip(-1)
        return latents

    def _cut(self, latents: Latents, label: torch.Tensor, rng: np.random.Generator) -> None:
        """Replace the frames and labels from a random frame on by those of another clip."""
        place = int(rng.integers(1, max(2, self.config.window)))
        entry = self.entries[int(rng.integers(len(self.entries)))]
        for stream, other in self._window(entry, rng).items():
            latents[stream][place:] = other[place:]
        label[place:] = entry.label

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, _ORDER, epoch))
            self._order = (epoch, rng.permutation(len(self.entries)))
        return self._order[1]

    def _read(self, entry: IndexEntry, start: int, mirrored: bool) -> dict[str, torch.Tensor]:
        """A window of the stored latents, those of the ``mirrored`` clip or of the original."""
        assert entry.shard is not None, "an entry of an index has a shard"
        shard = self._shards.get(entry.shard)
        if shard is None:
            shard = self._shards[entry.shard] = open_shard(self.folder / entry.shard)
        window = slice(start, start + self.config.window)
        names = {stream: MIRRORED if mirrored and stream == "video" else stream for stream in self.shape.streams}
        return {stream: shard.get_slice(f"{entry.key}.{name}")[window].float() for stream, name in names.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Open shards can't be sent to another process: each opens its own.
        return {**self.__dict__, "_shards": {}}


class GlobalOrder(Sampler[list[int]]):
    """The micro-batches of one process: a ``batch_sampler`` for a DataLoader over :class:`WindowDataset`.

    Steps ``start_step .. steps - 1`` of a run with ``global_batch`` positions a step. Process ``rank`` of ``world``
    takes its contiguous share of every step and yields it in ``accumulate`` lists of equal size. Raises
    :class:`InputError` where ``global_batch`` can't be shared out evenly.
    """

    def __init__(
        self, global_batch: int, start_step: int, steps: int, rank: int = 0, world: int = 1, accumulate: int = 1
    ) -> None:
        if global_batch < 1 or global_batch % (world * accumulate):
            raise InputError(
                f"batch {global_batch} can't be shared evenly among {world} process(es) with {accumulate} accumulation "
                f"step(s): choose a multiple of {world * accumulate}"
            )
        if not 0 <= rank < world:
            raise InputError(f"rank must be in [0, {world}), not {rank}")
        self.global_batch, self.steps, self.rank, self.accumulate = (
            global_batch,
            range(start_step, steps),
            rank,
            accumulate,
        )
        self.micro_batch = global_batch // (world * accumulate)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        share = self.micro_batch * self.accumulate
        for step in self.steps:
            first = step * self.global_batch + self.rank * share
            for start in range(first, first + share, self.micro_batch):
                yield list(range(start, start + self.micro_batch))
