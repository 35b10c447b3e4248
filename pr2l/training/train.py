"""Training: a config in, a run folder out, and nothing lost on the way.

An algorithm learns from rollouts, or from recorded episodes (its module then says LEARNS_FROM = "data"), whose
embeddings are read from their store: the encoder is not asked until the evaluation.

The state that a run goes on from is taken between an update and the next rollout, where it is small: weights,
optimiser, counters, random generators, and each running episode as its seed and actions. It goes to disk every
`checkpoint_every` steps and whenever the run stops, for whatever reason the process still learns of; the rollout
that was under way then is played again. So with a deterministic simulator a resumed run equals an uninterrupted
one, bit for bit.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core import registry
from pr2l.core.config import RunConfig
from pr2l.data.recorded import Episodes, recorded_episodes
from pr2l.encoders.base import Encoder
from pr2l.rollout import build
from pr2l.rollout.episodes import EXPLORATION
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.training.checkpoints import Checkpoint
from pr2l.training.curves import draw_curves
from pr2l.training.evaluate import report
from pr2l.training.metrics import Metrics
from pr2l.training.progress import TrainingProgress
from pr2l.training.runs import Run


def train(config: RunConfig, resume: Path | None = None, root: Path = Path("runs")) -> Path:
    """Trains and evaluates; the run folder, in `root`.

    resume: a run folder to go on with, under the same config but for what `runs.MAY_CHANGE` lists. Ctrl-C and
    SIGTERM save first, then raise KeyboardInterrupt or SystemExit. Raises UserError for what does not fit together.
    """
    run = Run.reopen(resume, config) if resume else None
    checkpoint = run.latest() if run else None
    encoder = build.encoder(config)
    with _sigterm_exits(), closing(build.environments(config, "train", labels=encoder.needs_labels)) as frames:
        episodes = recorded_episodes(config, encoder, frames)
        if checkpoint is not None:
            encoder.load_state_dict(checkpoint.below("encoder"))
        elif episodes is None:
            fit(encoder, frames, config.seed)
        venv = VecEmbed(frames, encoder)
        model = build.model(config, venv)
        run = run or Run.create(config, root)
        _learn(run, model, venv, checkpoint, episodes)
    draw_curves(run.path)
    report(run, encoder, model, model.num_timesteps)
    return run.path


def fit(encoder: Encoder, frames: VecEnv, seed: int) -> None:
    """Shows the encoder `fit_frames` frames of random play, if it has anything to fit."""
    if not encoder.fit_frames:
        return
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(EXPLORATION,)))
    frames.action_space.seed(int(random.integers(2**32)))
    shown: Any = frames.reset()
    seen, contexts = [shown["frame"]], [info["context"] for info in frames.reset_infos]
    while len(contexts) < encoder.fit_frames:
        shown, _, dones, infos = frames.step(np.stack([frames.action_space.sample() for _ in range(frames.num_envs)]))
        seen.append(shown["frame"])
        now = [reset if done else info for reset, done, info in zip(frames.reset_infos, dones, infos, strict=True)]
        contexts += [info["context"] for info in now]
    encoder.fit(np.concatenate(seen)[: encoder.fit_frames], contexts[: encoder.fit_frames])


def _learn(run: Run, model: Any, venv: VecEmbed, checkpoint: Checkpoint | None, episodes: Episodes | None) -> None:
    """Trains to the config's number of steps, from a checkpoint or from nothing, and saves at the end of it."""
    config, console = run.config, Console()
    algorithm = registry.load("algorithms", config.algorithm)
    after = checkpoint.step if checkpoint else None
    console.print(f"{run.path}: {config.steps:,} steps" + (f", going on after {after:,}" if after else ""))
    with (
        closing(Metrics(run.path, config, after)) as metrics,
        TrainingProgress(console, config.steps, after or 0) as progress,
    ):
        books = Training if episodes is not None else Rollouts
        training = books(run, venv, algorithm, metrics, progress)
        if checkpoint is not None:
            training.restore(checkpoint)
            algorithm.restore(model, checkpoint.below("model"), checkpoint.values["model"])
        data = () if episodes is None else (episodes,)
        try:
            algorithm.learn(model, config.options("algorithm"), config.steps, training, *data)
        except BaseException:
            training.save()
            console.print(f"stopped; go on with [bold]pr2l train --resume {run.path}")
            raise


class Training(BaseCallback):
    """Keeps the books of a run: metrics, progress, the latest state, checkpoints.

    Between two updates it is told that a rollout starts, also where there are no rollouts.
    """

    def __init__(self, run: Run, venv: VecEmbed, algorithm: Any, metrics: Metrics, progress: TrainingProgress) -> None:
        super().__init__()
        self.run, self.venv, self.algorithm = run, venv, algorithm
        self.metrics, self.progress = metrics, progress
        self.episodes, self.seconds = 0, 0.0  # of the whole run, with what earlier processes did
        self._state: Checkpoint | None = None
        self._saved: int | None = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on with the books as they were."""
        self.episodes, self.seconds = checkpoint.values["progress"]

    def save(self) -> None:
        """Writes the latest state, if there is one yet."""
        if self._state is not None:
            self.run.save(self._state)
            self._saved = self._state.step

    def _on_training_start(self) -> None:
        self._first, self._began = self.num_timesteps, time.monotonic()
        self._before = self.seconds

    def _on_rollout_start(self) -> None:
        self._between()
        if self._saved is None or self.num_timesteps - self._saved >= self.run.config.checkpoint_every:
            self.save()

    def _on_step(self) -> bool:
        self.progress.update(self.num_timesteps, self._numbers())
        return True

    def _on_training_end(self) -> None:
        self._between()
        self.save()

    def _between(self) -> None:
        """After an update: a row of metrics, then the state that this row belongs to."""
        step = self.model.num_timesteps
        if self._state is None or step > self._state.step:
            self.seconds = self._before + time.monotonic() - self._began
            if step > self._first:
                self.metrics.write(self._row(step))
            self._state = self._take_state(step)
            # A resumed run starts here with nothing in memory. An embedding's last bits depend on the batch that it was
            # made in, so this one must start with an empty cache too.
            self.venv.encoder.clear_cache()

    def _row(self, step: int) -> dict[str, float | None]:
        losses = dict(self.model.logger.name_to_value)
        self.model.logger.name_to_value.clear()
        return {"step": step, "seconds": self.seconds, "fps": self._rate(), **losses}

    def _take_state(self, step: int) -> Checkpoint:
        tensors, values = self.algorithm.state(self.model)
        named = {f"model/{name}": tensor for name, tensor in tensors.items()}
        named |= {f"encoder/{name}": tensor for name, tensor in self.venv.encoder.state_dict().items()}
        return Checkpoint(step, named, {"model": values, "progress": [self.episodes, self.seconds]})

    def _rate(self) -> float:
        """Steps a second of this process, updates included."""
        return (self.model.num_timesteps - self._first) / max(time.monotonic() - self._began, 1e-9)

    def _numbers(self) -> str:
        losses = (f", {name.rpartition('/')[2]} {value:.3g}" for name, value in self.model.logger.name_to_value.items())
        return f"{self._rate():.0f} steps/s{''.join(losses)}"


class Rollouts(Training):
    """The books of a run that plays: also of its episodes, those that ended and those that go on."""

    restarts = 0  # of simulators, in earlier processes

    def restore(self, checkpoint: Checkpoint) -> None:
        super().restore(checkpoint)
        self.restarts = checkpoint.values.get("restarts", 0)
        self.venv.restore(checkpoint.values["episodes"])

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._ended: list[dict[str, Any]] = []  # in the rollout under way

    def _on_step(self) -> bool:
        self._ended += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        return super()._on_step()

    def _row(self, step: int) -> dict[str, float | None]:
        self.episodes += len(self._ended)
        means = {
            name: float(np.mean([one[key] for one in self._ended])) if self._ended else None
            for name, key in (("return", "r"), ("success", "success"), ("length", "l"))
        }
        self._ended = []
        played = {"episodes": self.episodes, **means, "restarts": self._restarts()}
        return {"step": step, **played} | super()._row(step) | self.venv.encoder.metrics()

    def _take_state(self, step: int) -> Checkpoint:
        taken = super()._take_state(step)
        taken.values.update(episodes=self.venv.states(), restarts=self._restarts())
        return taken

    def _restarts(self) -> int:
        """How often a simulator was replaced since the run began."""
        return self.restarts + sum(self.venv.get_attr("restarts"))

    def _numbers(self) -> str:
        recent = self.model.ep_info_buffer
        if not recent:
            return f"{self._rate():.0f} steps/s"
        success, returned = (np.mean([one[key] for one in recent]) for key in ("success", "r"))
        return f"{self._rate():.0f} steps/s, success {success:.2f}, return {returned:.2f}"


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Makes SIGTERM, as cluster schedulers send it, an exception, so that the run can save and close its engines."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
