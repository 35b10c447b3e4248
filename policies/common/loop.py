"""Resumable training loop of all algorithms that do not use Stable-Baselines3's, and of VLM training.

    on_update_start -> update(source) -> on_update -> on_update_start -> ... -> on_end

Ctrl-C, SIGTERM and SIGHUP take effect after the current update, so that weights, optimizer, source and counters are
always of the same step. A second signal takes effect at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from .state import Tensors, below, copies, optimizer_tensors, restore_optimizer
from .threads import torch_threads

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Values = dict[str, Any]


class Resumable(Protocol):
    """Source of data with a position that can be saved and restored."""

    def state_dict(self) -> Values:
        """Return the position as JSON values."""
        ...

    def load_state_dict(self, values: Values) -> None:
        """Go back to the position that `state_dict` returned.

        Args:
            values: JSON values from `state_dict` of a source with the same data.
        """
        ...


class Items(Protocol[Item_co]):
    """Sequence that may read each item on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Item_co: ...


class LoopHooks(Protocol):
    """Callbacks of the loop; `learner` is the argument of `Loop.run`."""

    def on_update_start(self, learner: Any) -> None:
        """Run before each update.

        Args:
            learner: Its state may be saved now.
        """
        ...

    def on_update(self, metrics: Mapping[str, float]) -> None:
        """Run after each update.

        Args:
            metrics: Values by name, such as the loss.
        """
        ...

    def on_end(self, learner: Any) -> None:
        """Run after the last update.

        Args:
            learner: The learner that was training.
        """
        ...


@dataclass(frozen=True)
class Update:
    """Result of one update.

    Args:
        steps: Steps to add to `num_timesteps`.
        metrics: Names and values to log.
    """

    steps: int
    metrics: Mapping[str, float]


Rate = Callable[[int, int], float]  # (num_timesteps before the update, total_steps) -> learning rate


class Loop:
    """Training loop over one set of weights.

    Args:
        modules: Modules, or named parameters of a module, whose weights the state contains; by the prefix of their
            tensors in the state.
        optimizer: Optimizer over parameters of these modules.
        update: Function that draws data from the source and makes one gradient step.
        rate: Function that returns the learning rate of an update; None = the optimizer's own.
        threads: torch threads during an update; 0 = no change.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module | Mapping[str, torch.Tensor]],
        optimizer: Optimizer,
        update: Callable[[Any], Update],
        rate: Rate | None = None,
        threads: int = 0,
    ) -> None:
        self.modules, self.optimizer, self.update = modules, optimizer, update
        self.rate, self.threads = rate, threads
        self.num_timesteps = 0
        self.updating = False  # stays True if an update raises: weights and counters then belong to different steps
        self._source: Resumable | None = None
        self._source_values: Values | None = None  # loaded position, for the source of the next `run`

    def run(self, source: Resumable, total_steps: int, hooks: LoopHooks, learner: Any = None) -> None:
        """Make updates until `num_timesteps` is at least `total_steps`.

        Args:
            source: Argument of `update`; after `load_state_dict`, `run` restores its position.
            total_steps: Total including the steps before a resume, in the unit of `Update.steps`.
            hooks: Callbacks: on_update_start before and on_update after each update, on_end after the last.
            learner: Argument of the hooks; None = this loop.
        """
        learner = self if learner is None else learner
        self._source = source
        if self._source_values is not None:
            source.load_state_dict(self._source_values)
            self._source_values = None
        with deferred_signals() as raise_pending:
            while self.num_timesteps < total_steps:
                hooks.on_update_start(learner)
                raise_pending()
                if self.rate is not None:
                    for group in self.optimizer.param_groups:
                        group["lr"] = self.rate(self.num_timesteps, total_steps)
                self.updating = True
                with torch_threads(self.threads):
                    result = self.update(source)
                self.num_timesteps += result.steps
                self.updating = False
                hooks.on_update(result.metrics)
            hooks.on_end(learner)
            raise_pending()

    def state_dict(self) -> tuple[Tensors, Values]:
        """Return copies of the whole training state.

        Returns:
            Tensors of weights and optimizer, and JSON values of the counter, the optimizer's settings and the source.

        Raises:
            RuntimeError: An update is running or has failed.
        """
        if self.updating:
            raise RuntimeError("an interrupted update cannot be saved, because its weights and counters do not match")
        tensors = {
            f"{name}/{key}": value for name, module in self.modules.items() for key, value in _named(module).items()
        }
        source = self._source_values if self._source is None else self._source.state_dict()
        values = {
            "num_timesteps": self.num_timesteps,
            "param_groups": self.optimizer.state_dict()["param_groups"],
            "source": source,
        }
        return copies(tensors | optimizer_tensors(self.optimizer)), values

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        """Restore the training state; the position of the source is restored in `run`.

        Args:
            tensors: Tensors from `state_dict`.
            values: JSON values from `state_dict`.

        Raises:
            RuntimeError: The weights have other names or shapes.
        """
        self.load_weights(tensors)
        restore_optimizer(self.optimizer, tensors, values["param_groups"])
        self.num_timesteps = values["num_timesteps"]
        self._source_values = values["source"]

    @torch.no_grad()
    def load_weights(self, tensors: Tensors) -> None:
        """Restore the weights only.

        Args:
            tensors: Tensors from `state_dict`.

        Raises:
            RuntimeError: The weights have other names or shapes.
        """
        for name, module in self.modules.items():
            if isinstance(module, nn.Module):
                module.load_state_dict(below(tensors, name))
                continue
            saved = below(tensors, name)
            if saved.keys() != module.keys():
                raise RuntimeError(f"{name}: other weights than were saved: {sorted(saved.keys() ^ module.keys())}")
            for key, value in saved.items():
                module[key].copy_(value)


def _named(module: nn.Module | Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return module.state_dict() if isinstance(module, nn.Module) else module


class LoopLearner:
    """Base class of learners on this loop; a subclass declares `learns_from` and implements `act`.

    Args:
        policy: Policy; its tensors are "policy/..." in the state.
        loop: Loop that trains the policy.
    """

    def __init__(self, policy: nn.Module, loop: Loop) -> None:
        self.policy, self.loop = policy, loop

    @property
    def num_timesteps(self) -> int:
        """Number of steps so far, in the unit of `Update.steps`."""
        return self.loop.num_timesteps

    @property
    def parameter_count(self) -> int:
        """Number of parameters of the policy."""
        return sum(parameter.numel() for parameter in self.policy.parameters())

    @property
    def device(self) -> torch.device:
        """Device of the policy."""
        return next(self.policy.parameters()).device

    def learn(self, source: Any, total_steps: int, hooks: LoopHooks) -> None:
        """Run the loop; see `Loop.run`.

        Args:
            source: BatchSource of the kind that `learns_from` declares.
            total_steps: Total of the whole training, including the steps before a resume; in the unit of
                `num_timesteps`.
            hooks: Callbacks.
        """
        self.loop.run(source, total_steps, hooks, self)

    def state_dict(self) -> tuple[Tensors, Values]:
        """Return copies of the whole training state; see `Loop.state_dict`."""
        return self.loop.state_dict()

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        """Restore the training state; see `Loop.load_state_dict`.

        Args:
            tensors: Tensors from `state_dict`.
            values: JSON values from `state_dict`.

        Raises:
            RuntimeError: The weights have other names or shapes.
        """
        self.loop.load_state_dict(tensors, values)

    def load_policy(self, tensors: Tensors) -> None:
        """Restore the weights of the policy only, for acting.

        Args:
            tensors: Tensors from `state_dict`; those whose names begin with "policy/" are used.

        Raises:
            RuntimeError: The weights have other names or shapes.
        """
        self.policy.load_state_dict(below(tensors, "policy"))


class ShuffledSource(Generic[Item]):
    """Endless source that draws the items of a sequence once per epoch, each epoch in a new random order.

    Args:
        items: Sequence; an item is read when it is drawn.
        seed: Seed of the order.
    """

    def __init__(self, items: Items[Item], seed: int) -> None:
        self.items, self.seed = items, seed
        self.position = 0
        self._epoch, self._order = -1, np.empty(0, int)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def epoch(self) -> float:
        """Number of passes over the items so far."""
        return self.position / len(self.items)

    def next_batch(self, count: int) -> list[Item]:
        """Return the next `count` items.

        Args:
            count: Number of items; it may be larger than an epoch.
        """
        return [self.items[self._next()] for _ in range(count)]

    def state_dict(self) -> Values:
        return {"taken": self.position}

    def load_state_dict(self, values: Values) -> None:
        self.position = values["taken"]

    def _next(self) -> int:
        epoch, index = divmod(self.position, len(self.items))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.items))
        self.position += 1
        return int(self._order[index])


@contextmanager
def deferred_signals() -> Iterator[Callable[[], None]]:
    """Defer SIGINT, SIGTERM and SIGHUP in a `with` block.

    A second signal takes effect at once. Outside the main thread, which alone may handle signals, this does nothing.

    Yields:
        A function that lets a pending signal take effect. The end of the block does so too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    pending: list[tuple[int, FrameType | None]] = []

    def act(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:  # ends the process, as it would have
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def hold(number: int, frame: FrameType | None) -> None:
        if pending:
            pending.clear()
            act(number, frame)
        else:
            pending.append((number, frame))

    def raise_pending() -> None:
        if pending:
            act(*pending.pop())

    for number in before:
        signal.signal(number, hold)
    try:
        yield raise_pending
        raise_pending()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
