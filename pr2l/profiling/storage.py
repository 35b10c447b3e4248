"""Measurements of stored tokens: the memory of a rollout, and reading embeddings from disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.data.store import Store
from pr2l.profiling.measure import Measure, exact
from pr2l.profiling.passes import draw_frames
from pr2l.profiling.timing import Effort, Variant, speedup, time_in_turn
from pr2l.rollout import build
from pr2l.rollout.vec_embed import observation_space


def rollout(effort: Effort) -> Iterator[Measure]:
    """Compute the memory of a rollout's observations in the main Doom run, compared with SB3's own storage.

    SB3 stores float32 arrays in the rollout buffer, and flattens them into a second copy for the update.

    Args:
        effort: Not used.
    """
    config = load_config("doom/fetch/prompted")
    options, algorithm = config.options("algorithm"), registry.load("algorithms", config.algorithm)
    space = observation_space(build.frame_spaces(config).observation_space, build.encoder(config))
    memory = sum(algorithm.rollout_bytes(space, config.num_envs, options).values())
    numbers = sum(int(np.prod(subspace.shape or ())) for subspace in space.values())
    rows = options.n_steps * config.num_envs
    yield Measure("a rollout's step in memory", exact(memory / rows), "bytes")
    share = exact(memory / (2 * 4 * numbers * rows))
    yield Measure("a rollout's memory, share of SB3's own", share, "", 0.25, below=True)


def stored(effort: Effort) -> Iterator[Measure]:
    """Measure the speed-up of reading random rows from a store of embeddings, compared with computing them with `tiny`.

    Args:
        effort: Effort of the measurement.
    """
    config = load_config("doom/fetch/prompted", ["cache_frames=0", "vlm_options.dtype=auto"])
    encoder, frames = build.encoder(config), draw_frames(effort.frames)
    contexts = [{"target": "imp"}] * effort.frames
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="pr2l-store-") as folder:
        store = Store.create(Path(folder), encoder.key(), (8 * effort.frames, encoder.tokens, encoder.width))
        for _ in range(8):
            store.append(encoder.encode(frames, contexts))
        variants = {
            "computed": Variant(lambda: encoder.encode(frames, contexts)),
            "read": Variant(lambda: store[draw.choice(len(store), effort.frames, replace=False)]),
        }
        seconds = time_in_turn(variants, effort)
    faster = speedup(seconds["computed"], seconds["read"])
    yield Measure("stored embeddings of tiny: read over computed", faster, "x", 20.0)
