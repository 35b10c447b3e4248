"""Recorded episodes through a frozen encoder, once: what learning from them needs again and again goes to disk.

A data set of `pr2l collect` in, a store (see store.py) out, whose rows are the frames of all episodes, one episode
after the other, each with the frame after its last action too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minari
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file

from pr2l.core import digest, registry
from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.core.prompt import task_contexts
from pr2l.core.types import Contexts, Frames
from pr2l.data.store import Store, exists
from pr2l.encoders.base import Encoder
from pr2l.rollout import build

FLUSH_EVERY = 10  # seconds between flushes; so much work is lost at most
FITTED = "fitted.safetensors"  # in the store's folder, what the encoder fitted on the data set


def embed(dataset: Path, config: RunConfig, folder: Path | None = None) -> Store:
    """Embeds the frames of a data set with the config's encoder, or goes on where that was stopped.

    folder: of the store; None = <dataset>/embeddings/<encoder>-<digest of what decides the embeddings>. Frames go to
    the encoder in batches of the config's num_envs, as in a run. An encoder with a PCA fits it on frames spread over
    the data set. Ctrl-C keeps what is done, then raises KeyboardInterrupt. Raises UserError where data set and config
    do not fit together, or the folder's embeddings are others.
    """
    return embed_with(build.encoder(config), Recording(dataset), config, folder)


def embed_with(encoder: Encoder, recording: Recording, config: RunConfig, folder: Path | None = None) -> Store:
    """`embed` with an encoder that is there already, the config's; fits it, or gives it what was fitted."""
    console = Console()
    _check(recording, encoder, config)
    if folder is None:
        name = f"{config.encoder}-{digest.of_json(store_key(recording, encoder))}"
        folder = recording.folder / "embeddings" / name
    if encoder.fit_frames:
        _fit(encoder, recording, folder)
    key = store_key(recording, encoder)
    store = (
        Store.resume(folder, key)
        if exists(folder)
        else Store.create(folder, key, (len(recording), encoder.tokens, encoder.width))
    )
    try:
        made, seconds = _fill(store, recording, encoder, config.num_envs, console)
    finally:
        console.print(f"{store.done:,} of {len(store):,} frames are in {folder}", soft_wrap=True)
    if made:
        console.print(f"{made:,} frames in {seconds:.0f} s, {made / seconds:.0f} frames/s")
    return Store.open(folder, key)


class Recording:
    """A data set's frames as one row of them; its length is their number. UserError if the folder holds none."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "data").is_dir():
            raise UserError(f"{folder} is no data set: it has no folder `data`; `pr2l collect` makes one")
        self.folder = folder
        self.storage = minari.MinariDataset(folder / "data").storage
        about = list(self.storage.get_episode_metadata(range(self.storage.total_episodes)))
        if not about:
            raise UserError(f"{folder} has no whole episode; collect into another folder")
        self.contexts: Contexts = [dict(one.get("context", {})) for one in about]  # of each episode
        self.starts = np.cumsum([0, *(int(one["total_steps"]) + 1 for one in about)])
        contents = digest.of_files(folder, (folder / "data").glob("*.hdf5"))
        name = self.storage.metadata["dataset_id"]
        self.key = {"name": name, "episodes": len(about), "frames": len(self), "sha256": contents}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def batches(self, start: int, size: int) -> Iterator[tuple[Frames, Contexts]]:
        """The frames from row `start` on, `size` at a time, with their contexts; the last batch may be smaller."""
        frames, contexts = [], []
        first = self._episode(start)
        for episode, shown in enumerate(self._shown(range(first, len(self.contexts))), start=first):
            for frame in shown[max(start - self.starts[episode], 0) :]:
                frames.append(frame)
                contexts.append(self.contexts[episode])
                if len(frames) == size:
                    yield np.stack(frames), contexts
                    frames, contexts = [], []
        if frames:
            yield np.stack(frames), contexts

    def sample(self, count: int) -> tuple[Frames, Contexts]:
        """So many frames (or all, if there are fewer), evenly spread over the data set, with their contexts."""
        rows = self.spread(count)
        episodes = [self._episode(row) for row in rows]
        shown = (next(self._shown([episode])) for episode in episodes)
        frames = [each[row - self.starts[e]] for row, e, each in zip(rows, episodes, shown, strict=True)]
        return np.stack(frames), [self.contexts[episode] for episode in episodes]

    def spread(self, count: int) -> np.ndarray:
        """The numbers of so many rows (or all, if there are fewer), evenly spread: those of `sample`."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)

    def _episode(self, row: int) -> int:
        """The number of the episode that a row belongs to."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def _shown(self, episodes: Any) -> Iterator[Frames]:
        return (episode["observations"]["frame"] for episode in self.storage.get_episodes(episodes))


def store_key(recording: Recording, encoder: Encoder) -> dict[str, Any]:
    """The key of a store of a data set's embeddings."""
    return {"data": recording.key, **encoder.key()}


def _check(recording: Recording, encoder: Encoder, config: RunConfig) -> None:
    if encoder.needs_labels:
        raise UserError(f"the encoder {config.encoder!r} reads labels, which recorded episodes lack; use another")
    known = task_contexts(registry.load("environments", config.environment).TASKS[config.task])
    strange = [context for context in recording.contexts if context not in known] if known is not None else []
    if strange:
        raise UserError(
            f"the data set {recording.key['name']!r} has an episode with the context {strange[0]}, which "
            f"{config.environment}/{config.task} never gives; use a config of the task that was collected"
        )


def _fit(encoder: Encoder, recording: Recording, folder: Path) -> None:
    """Fits the encoder, or takes what was fitted when the store was made."""
    if not (folder / FITTED).is_file():
        encoder.fit(*recording.sample(encoder.fit_frames))
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".partial-{FITTED}"
        save_file({name: part.contiguous() for name, part in encoder.state_dict().items()}, partial)
        partial.rename(folder / FITTED)
    encoder.load_state_dict(load_file(folder / FITTED))


def _fill(store: Store, recording: Recording, encoder: Encoder, size: int, console: Console) -> tuple[int, float]:
    """Embeds the rows that the store lacks; how many those were, and seconds."""
    before, began = store.done, time.monotonic()
    flushed = began
    with Progress(console=console) as bars:
        bar = bars.add_task("embedding", total=len(store), completed=before)
        try:
            for frames, contexts in recording.batches(before, size) if before < len(store) else ():
                with torch.no_grad():
                    store.append(encoder.encode(frames, contexts))
                bars.update(bar, completed=store.done)
                if time.monotonic() - flushed >= FLUSH_EVERY:
                    store.flush()
                    flushed = time.monotonic()
        finally:
            store.flush()
    return store.done - before, time.monotonic() - began
