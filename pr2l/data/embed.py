"""Embed the frames of recorded episodes with a frozen encoder, once, into a store on disk.

The rows of the store (see store.py) are the rows of the recording (see recording.py): the frames of all episodes, one
episode after the other, each with the frame after its last action.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pr2l.core import digest, registry
from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.core.io import DIGEST, DamagedFile, sync
from pr2l.core.lock import locked
from pr2l.core.prompt import task_contexts
from pr2l.core.types import Labels, Tokens
from pr2l.data.action_features import action_features
from pr2l.data.manifest import LABELS
from pr2l.data.recording import Recording
from pr2l.data.store import Store, is_complete
from pr2l.data.store_writer import write_store
from pr2l.encoders.base import Encoder
from pr2l.rollout import build

FITTED = "fitted.safetensors"  # in the store's folder: the state of an encoder fitted on the data set, such as a PCA


def embed(dataset: Path, config: RunConfig, folder: Path | None = None) -> Store:
    """Embed all frames of a data set, or the remaining frames if the store exists.

    If the algorithm of the config uses features of actions, they are computed next, into a store of their own.

    Ctrl-C keeps the finished rows, then raises KeyboardInterrupt.

    Args:
        dataset: A folder from `pr2l collect`, or another Minari data set with frames.
        config: The config with the encoder. The encoder gets batches of `num_envs` frames, as in a run.
        folder: The folder of the store. None = <dataset>/embeddings/<encoder>-<digest of the store's key>.

    Returns:
        The complete store, open for reading.

    Raises:
        UserError: If the config does not fit the data set, or the folder holds other embeddings.
    """
    recording = Recording(dataset)
    encoder = build.encoder(config, recording.frame_shape)
    store = embed_with(encoder, recording, config, folder)
    action_features(encoder, recording, config)
    return store


def embed_with(
    encoder: Encoder, recording: Recording, config: RunConfig, folder: Path | None = None, *, wait: bool = False
) -> Store:
    """Embed all frames of a recording with an existing encoder.

    An encoder with a positive `fit_frames` is fitted on frames spread over the data set. If the store's folder has the
    state of an earlier fit, the encoder loads that state instead.

    Args:
        encoder: The encoder of `config`.
        recording: The data set.
        config: The config of the encoder; batches have `num_envs` frames.
        folder: The folder of the store. None = <dataset>/embeddings/<encoder>-<digest of the store's key>.
        wait: Wait while another process embeds the same frames, and read its embeddings; False = raise UserError.

    Returns:
        The complete store, open for reading.

    Raises:
        UserError: If the config does not fit the data set, the folder holds other embeddings, or another process writes
            to it.
    """
    _check(recording, encoder, config)
    if folder is None:
        name = f"{config.encoder}-{digest.of_json(store_key(recording, encoder))}"
        folder = recording.folder / "embeddings" / name
    if is_complete(folder):  # processes that only read need no lock
        return _embed_missing(encoder, recording, config, folder)
    with locked(folder, wait=wait):
        return _embed_missing(encoder, recording, config, folder)


def _embed_missing(encoder: Encoder, recording: Recording, config: RunConfig, folder: Path) -> Store:
    """Fit the encoder, embed the missing rows, and open the store for reading."""
    if encoder.fit_frames:
        _fit(encoder, recording, folder)
    shape = (len(recording), encoder.tokens, encoder.width)
    rows = partial(_rows, recording, encoder, config)
    return write_store(folder, store_key(recording, encoder), shape, rows, "frames")


def store_key(recording: Recording, encoder: Encoder) -> dict[str, Any]:
    """Return the key of the store of a data set's embeddings.

    Args:
        recording: The data set.
        encoder: The encoder, after its fit.

    Returns:
        The entries of the encoder's key, and the key of the data set as "data".
    """
    return {"data": recording.key, **encoder.key()}


def _check(recording: Recording, encoder: Encoder, config: RunConfig) -> None:
    """Raise UserError if the encoder or the task of the config does not fit the data set."""
    if encoder.needs_labels and not (recording.folder / LABELS).is_file():
        raise UserError(
            f"the encoder {config.encoder!r} reads labels, which {recording.folder} does not have; record the episodes "
            "again with `pr2l collect --labels`, or use another encoder"
        )
    contexts = task_contexts(registry.load("environments", config.environment).TASKS[config.task])
    if contexts is None:  # the task does not list its contexts: any context may occur
        return
    if unknown := [context for context in recording.all_contexts() if context not in contexts]:
        raise UserError(
            f"the data set {recording.key['name']!r} has an episode with the context {unknown[0]}, which is not a "
            f"context of {config.environment}/{config.task}; use a config of the recorded task"
        )


def _fit(encoder: Encoder, recording: Recording, folder: Path) -> None:
    """Fit the encoder and save its state, or load the state from an earlier fit."""
    path = folder / FITTED
    if not path.is_file():
        encoder.fit(*recording.sample(encoder.fit_frames, encoder.frame_history))
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".partial-{FITTED}"
        state = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(state, partial, metadata={DIGEST: digest.of_tensors(state)})
        sync(partial)
        partial.rename(path)
    encoder.load_state_dict(_read_fitted(path))


def _read_fitted(path: Path) -> dict[str, torch.Tensor]:
    """Read the state of a fitted encoder; DamagedFile if it does not have its digest, which earlier versions omit."""
    next_step = f"Delete {path.parent} and run `pr2l embed` again."
    try:
        state = load_file(path)
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get(DIGEST)
    except SafetensorError as error:
        raise DamagedFile(path, str(error), next_step) from error
    if written is not None and written != digest.of_tensors(state):
        raise DamagedFile(path, "its tensors differ from those that were written", next_step)
    return state


def _labels(recording: Recording, config: RunConfig, start: int) -> Iterator[Labels]:
    """Yield the labels of the rows from `start` to the end, with the simulator's distances."""
    return recording.labels(start, getattr(registry.load("environments", config.environment), "NEAR", 1.0))


def _rows(recording: Recording, encoder: Encoder, config: RunConfig, start: int) -> Iterator[Tokens]:
    """Yield the tokens of the frames from `start` on, batch by batch."""
    labels = _labels(recording, config, start) if encoder.needs_labels else None
    for frames, contexts in recording.batches(start, config.num_envs, encoder.frame_history):
        with torch.no_grad():
            yield encoder.encode(frames, contexts, None if labels is None else [*islice(labels, len(frames))])
