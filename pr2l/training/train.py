"""Training from a config into a resumable run folder.

A learner learns from its own rollouts or from recorded data (`Learner.learns_from`). Training from recorded data reads
stored embeddings and starts no simulator before the evaluation.

A checkpoint is the state between two updates: weights, optimizer, counters, random generators, and the position in the
data or the seed and actions of each running episode. The run writes one every `checkpoint_every` steps and when it
stops, unless the process is killed. A resumed run repeats the interrupted rollout or update. So with a deterministic
simulator it equals an uninterrupted run, bit for bit, except with asynchronous environments, whose order depends on
time.
"""

from __future__ import annotations

import shlex
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core.config import RunConfig, run_config_file
from pr2l.core.console import Console
from pr2l.core.errors import UserError, code_of, owner_of_object
from pr2l.core.lock import locked
from pr2l.core.signals import STOP_SIGNALS, stops_once
from pr2l.data.recorded import batch_source, learns_from_data, recorded_spaces, recording, takes_data
from pr2l.encoders.base import Encoder
from pr2l.policies.base import Hooks, Learner
from pr2l.rollout import build
from pr2l.rollout.episodes import EXPLORATION
from pr2l.rollout.vec_embed import VecEmbed, encoder_frames, keep_frames
from pr2l.training.check import rollout_memory
from pr2l.training.checkpoints import Checkpoint, CheckpointNotWritten, NotFinite
from pr2l.training.evaluate import report
from pr2l.training.metrics import Metrics, check_tracking
from pr2l.training.progress import TrainingProgress
from pr2l.training.runs import Run

# Metrics of a rollout: means over the episodes that ended in it, by column and key of info["episode"].
EPISODE_METRICS = {"return": "r", "success": "success", "length": "l"}
EVALUATOR_METRICS = {"evaluator/agreement": "agrees", "evaluator/abstentions": "abstained"}
RECENT = 100  # number of episodes that the progress line averages over


def train(config: RunConfig, resume: Path | None = None, root: Path = Path("runs")) -> Path:
    """Train a learner and evaluate it.

    Ctrl-C, SIGTERM and SIGHUP save a checkpoint and then raise KeyboardInterrupt or SystemExit. Further signals within
    30 s are ignored, so that they do not interrupt the saving.

    Args:
        config: Config of the run, from `load_config`.
        resume: Run folder to resume; the config may differ from its own in the keys of `runs.MAY_CHANGE` only. None = a
            new run.
        root: Parent of a new run folder.

    Returns:
        The run folder.

    Raises:
        UserError: Parts of the config do not fit together, or the folder cannot be resumed.
    """
    check_tracking(config)
    with stops_once(*STOP_SIGNALS):
        if resume is None:
            return _train(config, None, root)
        run_config_file(resume)
        with locked(resume):
            return _train(config, resume, root)


def _train(config: RunConfig, resume: Path | None, root: Path) -> Path:
    earlier_steps = Run.load(resume).config.steps if resume else config.steps
    run = Run.reopen(resume, config) if resume else None
    checkpoint = run.latest(remove_damaged=True) if run else None
    with ExitStack() as stack:
        encoder, spaces, source = stack.enter_context(training_source(config, fit_encoder=checkpoint is None))
        if checkpoint is not None:
            encoder.load_state_dict(checkpoint.below("encoder"))
        learner = learner_with_data(config, encoder, spaces)
        if run is None:
            run = Run.create(config, root)
            stack.enter_context(locked(run.path))
        if config.steps != earlier_steps and getattr(config.options("algorithm"), "schedule", "") == "linear":
            Console().print(
                f"steps was {earlier_steps:,} and is now {config.steps:,}: the linear schedule is restated, so the"
                f" learning rate reaches 0 at {config.steps:,} steps",
                highlight=False,
            )
        _learn(run, learner, encoder, source, checkpoint)
    from pr2l.training.curves import draw_curves  # imported here because matplotlib takes a second

    draw_curves(run.path)
    report(run, encoder, learner, learner.num_timesteps)
    draw_curves(run.path)  # again, with the random policy's level
    return run.path


@contextmanager
def training_source(config: RunConfig, *, fit_encoder: bool = True) -> Iterator[tuple[Encoder, build.Spaces, Any]]:
    """Open what the learner of a config learns from: recorded episodes, or environments, which are closed at the end.

    Args:
        config: Config of the run.
        fit_encoder: Whether to fit the encoder on frames of the environments. On recorded episodes it is always
            fitted, or gets the state of an earlier fit.

    Yields:
        The encoder, the spaces of the environments before the encoder, and the argument of `Learner.learn`.

    Raises:
        UserError: Parts of the config do not fit together, or a rollout does not fit into the memory.
    """
    if learns_from_data(config):
        data = recording(config)
        encoder = build.encoder(config, data.frame_shape)
        yield encoder, recorded_spaces(data), batch_source(config, encoder, data)
        return
    spaces = build.frame_spaces(config)
    encoder = build.encoder(config, spaces.frame_shape)
    memory = rollout_memory(config, encoder, spaces)
    if not memory.good:
        raise UserError(f"{memory.description}: {memory.problem}")
    with closing(build.environments(config, "train", labels=encoder.needs_labels)) as frames:
        if fit_encoder:
            fit(encoder, frames, config.seed)
        yield encoder, spaces, build.embedded(config, frames, encoder)


def learner_with_data(config: RunConfig, encoder: Encoder, spaces: build.Spaces) -> Learner:
    """Create an untrained learner, with the recorded episodes of the config if it learns from rollouts and from them.

    Args:
        config: Config of the run.
        encoder: Encoder of the frames, after its fit.
        spaces: Spaces of the environments, before encoding.
    """
    learner = build.learner(config, encoder, spaces)
    if config.data is not None and takes_data(config):
        takes: Any = learner  # has `add_data`
        takes.add_data(batch_source(config, encoder, recording(config)))
    return learner


def fit(encoder: Encoder, frames: VecEnv, seed: int) -> None:
    """Fit an encoder on `encoder.fit_frames` frames of random play; do nothing if that is 0.

    Args:
        encoder: Encoder to fit.
        frames: Vector environment of frames; this resets it and steps it with random actions.
        seed: Seed of the actions.
    """
    if not encoder.fit_frames:
        return
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(EXPLORATION,)))
    frames.action_space.seed(int(random.integers(2**32)))
    history = encoder.frame_history
    keep_frames(frames, history)
    observations: Any = frames.reset()
    batches = [encoder_frames(observations, frames.reset_infos, history)]
    contexts = [info["context"] for info in frames.reset_infos]
    while len(contexts) < encoder.fit_frames:
        actions = np.stack([frames.action_space.sample() for _ in range(frames.num_envs)])
        observations, _, dones, infos = frames.step(actions)
        now = [reset if done else info for reset, done, info in zip(frames.reset_infos, dones, infos, strict=True)]
        batches.append(encoder_frames(observations, now, history))
        contexts += [info["context"] for info in now]
    encoder.fit(np.concatenate(batches)[: encoder.fit_frames], contexts[: encoder.fit_frames])


def _learn(run: Run, learner: Learner, encoder: Encoder, source: Any, checkpoint: Checkpoint | None) -> None:
    """Train from a checkpoint or from the start until `config.steps`, and save a checkpoint at the end."""
    config, console = run.config, Console()
    after = checkpoint.step if checkpoint else None
    resumed = f", going on after {after:,}" if after else ""
    console.print(f"{run.path}: {config.steps:,} steps{resumed}", markup=False)
    with (
        closing(Metrics(run.path, config, after)) as metrics,
        TrainingProgress(console, config.steps, after or 0) as progress,
    ):
        training = Training(run, learner, encoder, metrics, progress)
        if learner.learns_from == "rollouts":
            training = RolloutTraining(run, learner, encoder, metrics, progress, source)
        if checkpoint is not None:
            training.restore(checkpoint)
            learner.load_state_dict(checkpoint.below("model"), checkpoint.values["model"])
        try:
            with code_of(owner_of_object(learner, "learner")):
                learner.learn(source, config.steps, training)
        except CheckpointNotWritten:
            raise
        except NotFinite:
            training.save()
            raise
        except BaseException as error:
            training.save()
            if isinstance(error, Exception):
                training.check_finite(error)
            with suppress(OSError):  # after SIGHUP the terminal is gone
                console.print("stopped; go on with", highlight=False)
                # On one line, whatever its length, so that users can copy it.
                command = f"pr2l train --resume {shlex.quote(str(run.path))}"
                console.print(command, style="bold", highlight=False, markup=False, soft_wrap=True)
            raise


class Training(Hooks):
    """Hooks that log metrics and save checkpoints.

    Args:
        run: Run whose folder receives the checkpoints.
        learner: Learner that is training.
        encoder: Encoder of the run, whose state the checkpoints contain.
        metrics: Writer of metrics.
        progress: Display of the progress.
    """

    def __init__(
        self, run: Run, learner: Learner, encoder: Encoder, metrics: Metrics, progress: TrainingProgress
    ) -> None:
        self.run, self.learner, self.encoder = run, learner, encoder
        self.metrics, self.progress = metrics, progress
        self.episodes, self.seconds = 0, 0.0  # totals of the whole run, including earlier processes
        self._start: float | None = None  # time at which this process began to train
        self._first_step, self._seconds_before = 0, 0.0
        self._state: Checkpoint | None = None
        self._saved_step: int | None = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the counts of episodes and seconds from a checkpoint.

        Args:
            checkpoint: Checkpoint of this run; its tensors are not used here.
        """
        self.episodes, self.seconds = checkpoint.values["progress"]

    def save(self) -> None:
        """Write the latest state as a checkpoint, unless it is on disk already or there is none."""
        if self._state is not None and self._state.step != self._saved_step:
            self.metrics.sync()  # before the checkpoint, which says that these rows exist
            self.run.save(self._state)
            self._saved_step = self._state.step

    def on_update_start(self, learner: Learner) -> None:
        if self._start is None:
            self._start, self._first_step = time.monotonic(), learner.num_timesteps
            self._seconds_before = self.seconds
        self._take_state()
        if self._saved_step is None or learner.num_timesteps - self._saved_step >= self.run.config.checkpoint_every:
            self.save()

    def check_finite(self, error: Exception) -> None:
        """Check whether NaN or infinite numbers in the learner's state explain an error of its training.

        Args:
            error: The error, which becomes the cause of NotFinite.

        Raises:
            NotFinite: The state has such numbers. Otherwise nothing is raised, and the caller raises `error` again.
        """
        try:
            self.state()
        except NotFinite as not_finite:
            raise not_finite from error

    def on_update(self, metrics: Mapping[str, float]) -> None:
        if bad := [name for name, value in metrics.items() if "loss" in name and not np.isfinite(value)]:
            raise NotFinite(self.learner.num_timesteps, f"{bad[0]} is {metrics[bad[0]]}")
        self.seconds = self._seconds_before + self._elapsed()
        self.metrics.write(self.row(metrics))
        self.progress.update(self.learner.num_timesteps, self.summary(metrics))

    def on_end(self, learner: Learner) -> None:
        self._take_state()
        self.save()

    def row(self, metrics: Mapping[str, float]) -> dict[str, float | None]:
        """Return the row of metrics.csv after an update.

        Args:
            metrics: Metrics of the update by name.
        """
        return {"step": self.learner.num_timesteps, "seconds": self.seconds, "fps": self._rate(), **metrics}

    def summary(self, metrics: Mapping[str, float]) -> str:
        """Return the text of the progress line.

        Args:
            metrics: Metrics of the update by name.
        """
        losses = (f", {name.rpartition('/')[2]} {value:.3g}" for name, value in metrics.items())
        return f"{self._rate():.0f} steps/s{''.join(losses)}"

    def state(self) -> Checkpoint:
        """Return the state of the run; call it between two updates.

        Raises:
            NotFinite: A tensor of the learner or of the encoder contains NaN or infinite numbers.
        """
        tensors, values = self.learner.state_dict()
        all_tensors = {f"model/{name}": tensor for name, tensor in tensors.items()}
        all_tensors |= {f"encoder/{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        progress = [self.episodes, self.seconds]
        return Checkpoint(self.learner.num_timesteps, all_tensors, {"model": values, "progress": progress})

    def _take_state(self) -> None:
        self._state = self.state()
        # A resumed run starts here with an empty cache. The last bits of an embedding depend on the batch in which the
        # VLM computed it, so this run must continue with an empty cache too.
        self.encoder.clear_cache()

    def _elapsed(self) -> float:
        return 0.0 if self._start is None else time.monotonic() - self._start

    def _rate(self) -> float:
        """Return the steps per second of this process, including updates."""
        return (self.learner.num_timesteps - self._first_step) / max(self._elapsed(), 1e-9)


class RolloutTraining(Training):
    """Hooks that also log episodes, and save the running episodes in the checkpoints.

    Args:
        run: Run whose folder receives the checkpoints.
        learner: Learner that is training.
        encoder: Encoder of the run, whose state the checkpoints contain.
        metrics: Writer of metrics.
        progress: Display of the progress.
        venv: Vector environment of the rollouts.
    """

    def __init__(
        self,
        run: Run,
        learner: Learner,
        encoder: Encoder,
        metrics: Metrics,
        progress: TrainingProgress,
        venv: VecEmbed,
    ) -> None:
        super().__init__(run, learner, encoder, metrics, progress)
        self.venv = venv
        self.earlier_restarts = 0  # restarts of simulators in earlier processes
        self._rollout_episodes: list[Mapping[str, Any]] = []  # episodes that ended in the current rollout
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)  # (success, return)

    def restore(self, checkpoint: Checkpoint) -> None:
        super().restore(checkpoint)
        self.earlier_restarts = checkpoint.values.get("restarts", 0)
        self._recent.extend((success, value) for success, value in checkpoint.values.get("recent", []))
        self.venv.restore(checkpoint.values["episodes"])

    def on_step(self, infos: Sequence[Mapping[str, Any]]) -> None:
        episodes = [info["episode"] for info in infos if "episode" in info]
        self._rollout_episodes += episodes
        self._recent.extend((float(episode["success"]), float(episode["r"])) for episode in episodes)
        self.progress.update(self.learner.num_timesteps, self.summary({}))

    def row(self, metrics: Mapping[str, float]) -> dict[str, float | None]:
        self.episodes += len(self._rollout_episodes)
        columns = EPISODE_METRICS | (EVALUATOR_METRICS if self.run.config.evaluator else {})
        means = {name: mean_of(self._rollout_episodes, key) for name, key in columns.items()}
        self._rollout_episodes = []
        rollout = {"step": self.learner.num_timesteps, "episodes": self.episodes, **means, "restarts": self._restarts()}
        return rollout | super().row(metrics) | self.venv.metrics()

    def _take_state(self) -> None:
        super()._take_state()
        self.venv.clipped = 0

    def summary(self, metrics: Mapping[str, float]) -> str:
        if not self._recent:
            return f"{self._rate():.0f} steps/s"
        success, returned = np.mean(self._recent, axis=0)
        return f"{self._rate():.0f} steps/s, success {success:.2f}, return {returned:.2f}"

    def state(self) -> Checkpoint:
        state = super().state()
        recent = [list(pair) for pair in self._recent]
        state.values.update(episodes=self.venv.states(), restarts=self._restarts(), recent=recent)
        return state

    def _restarts(self) -> int:
        """Return the number of simulator restarts since the run began."""
        return self.earlier_restarts + sum(self.venv.get_attr("restarts"))


def mean_of(episodes: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of a number over the episodes that have it, None if no episode does.

    Args:
        episodes: The "episode" of the last info of each episode.
        key: Key of the number.
    """
    values = [episode[key] for episode in episodes if key in episode]
    return float(np.mean(values)) if values else None
