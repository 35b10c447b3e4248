"""PPO in Doom, timed rollout by rollout: pr2l against the paper's notebook, and where the time goes.

    round 1   ours: rollout + update   fastest: rollout + update   notebook: rollout + update
    round 2   ours: rollout + update   ...

Each session has its own simulators, VLM and learner, and goes on where its last round ended. The sessions differ only
in how the VLM is asked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from pr2l.core.config import RunConfig, load_config
from pr2l.core.statistics import median_interval
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import uncached
from pr2l.policies.base import Hooks
from pr2l.profiling import shapes
from pr2l.profiling.baselines import Ask, as_the_notebook
from pr2l.profiling.measure import Measure
from pr2l.profiling.timing import Effort, rate, rounds, speedup, synchronize
from pr2l.rollout import build
from pr2l.vlms.base import VLM
from pr2l.vlms.options import OPTIMIZATIONS

CONFIG = "doom/fetch/prompted"
SHORT_ROUNDS = "algorithm_options.n_steps=16"  # an update has as many passes over a row as after the config's 64 steps
# Overrides with which a round takes seconds with a large VLM.
LARGE_VLM = ("num_envs=8", "vlm_options.image_size=256", "encoder_options.image_tokens=null")
FEW_STEPS = "algorithm_options.n_steps=4"
# The notebook keeps no embeddings of earlier frames, and runs all layers.
NOTEBOOK = (f"vlm_options.disable={list(OPTIMIZATIONS)}", "cache_frames=0")


@dataclass(frozen=True)
class Clock:
    """Times of one rollout and update.

    Args:
        steps: Environment steps.
        seconds: Seconds in the simulators, in the VLM and in the rest, by name.
    """

    steps: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of rollout and update together."""
        return sum(self.seconds.values())


class Session:
    """A training whose rounds of one rollout and one update are timed.

    Args:
        config: Config of the training.
        change: Function from the VLM to what replaces `VLM.hidden`; None = no change.
    """

    def __init__(self, config: RunConfig, change: Callable[[VLM], Ask] | None = None) -> None:
        self.seconds = {"simulators": 0.0, "the VLM": 0.0}
        self.round_steps = config.options("algorithm").n_steps * config.num_envs
        encoder = build.encoder(config)
        vlm: Any = vlm_of(encoder)
        vlm.hidden = self._timed("the VLM", change(vlm) if change else vlm.hidden)
        simulators: Any = build.environments(config, "train")
        simulators.step_wait = self._timed("simulators", simulators.step_wait)
        self.simulators: VecEnv = simulators
        self.learner = build.learner(config, encoder, build.spaces_of(simulators))
        self.frames = build.embedded(config, self.simulators, encoder)

    def run(self) -> Clock:
        """Run one rollout and update. The first run also resets the simulators."""
        self.seconds.update(dict.fromkeys(self.seconds, 0.0))
        before, began = self.learner.num_timesteps, perf_counter()
        self.learner.learn(self.frames, before + self.round_steps, Hooks())
        synchronize()
        remaining = perf_counter() - began - sum(self.seconds.values())
        return Clock(self.learner.num_timesteps - before, self.seconds | {"the rest": remaining})

    def close(self) -> None:
        """Close the simulators."""
        self.simulators.close()

    def _timed(self, section: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                synchronize()
                self.seconds[section] += perf_counter() - began

        return timing


def vlm_of(encoder: Encoder) -> VLM:
    """Return the VLM of an encoder, also of one with a cache."""
    bare: Any = uncached(encoder)
    vlm: VLM = bare.vlm
    return vlm


def run_in_turn(sessions: dict[str, Session], effort: Effort) -> dict[str, list[Clock]]:
    """Run rounds of several sessions in turn, after one warm-up round of each.

    Args:
        sessions: Sessions by name.
        effort: Number of rounds.
    """
    for session in sessions.values():
        session.run()
    clocks: dict[str, list[Clock]] = {name: [] for name in sessions}
    for _ in rounds(effort):
        for name, session in sessions.items():
            clocks[name].append(session.run())
    return clocks


def training(shape: str, effort: Effort) -> Iterator[Measure]:
    """Measure PPO in Doom: steps per second, fractions of the time, and for `tiny` the speed-up over the notebook.

    Args:
        shape: Name of the VLM's shape.
        effort: Effort of the measurement.
    """
    with tempfile.TemporaryDirectory(prefix="pr2l-shape-") as folder:
        vlm = shapes.checkpoint(shape, Path(folder))
        if shape == "tiny":
            yield from against_the_notebook(shape, vlm, (SHORT_ROUNDS,), effort)
        else:  # a round of the notebook takes minutes with a larger VLM, whose ratio `generation` measures
            yield from alone(shape, vlm, (*LARGE_VLM, FEW_STEPS), effort)


def against_the_notebook(name: str, vlm: str, overrides: Sequence[str], effort: Effort) -> Iterator[Measure]:
    """Measure PPO against the notebook's method, in float32 and with `dtype=fastest`.

    Args:
        name: Name of the VLM in the measures.
        vlm: Name or folder of the VLM.
        overrides: Overrides of the config for all sessions.
        effort: Effort of the measurement.
    """
    config = partial(configured, vlm, overrides)
    with ExitStack() as stack:
        start = lambda *arguments: stack.enter_context(closing(Session(*arguments)))  # noqa: E731
        sessions = {
            "": start(config()),
            " and dtype=fastest": start(config("vlm_options.dtype=fastest")),
            "notebook": start(config(*NOTEBOOK), lambda vlm: partial(as_the_notebook, vlm)),
        }
        clocks = run_in_turn(sessions, effort)
    notebook = [clock.total for clock in clocks.pop("notebook")]
    yield from where_the_time_goes(name, clocks[""])
    for difference, faster in clocks.items():
        ratio = speedup(notebook, [clock.total for clock in faster])
        yield Measure(f"PPO with {name}{difference}, over the notebook's way", ratio, "x", 4.0)


def alone(name: str, vlm: str, overrides: Sequence[str], effort: Effort) -> Iterator[Measure]:
    """Measure PPO with a VLM, without a comparison; for the arguments see `against_the_notebook`."""
    with closing(Session(configured(vlm, overrides))) as session:
        yield from where_the_time_goes(name, run_in_turn({"": session}, effort)[""])


def configured(vlm: str, overrides: Sequence[str], *further: str) -> RunConfig:
    """Load the config of the training with a VLM and overrides; without one of them the data type is `auto`."""
    return load_config(CONFIG, [f"vlm={vlm}", "vlm_options.dtype=auto", *overrides, *further])


def where_the_time_goes(name: str, clocks: Sequence[Clock]) -> Iterator[Measure]:
    """Measure the steps per second of a training, and the fraction of its time in each section."""
    seconds_per_step = [clock.total / clock.steps for clock in clocks]
    yield Measure(f"PPO with {name}", rate(seconds_per_step), "steps/s")
    for section in clocks[0].seconds:
        share = median_interval([clock.seconds[section] / clock.total for clock in clocks])
        goal = 0.1 if section == "the rest" and name != "tiny" else None
        yield Measure(f"PPO with {name}, share of time in {section}", share, "", goal, below=True)
