"""Interface of a success evaluator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pr2l.agents.usage import Usage
from pr2l.core.types import Frame


class Evaluator(ABC):
    """Judge of episodes: it returns the probability that the agent did its task.

    The score of an episode depends on nothing but the arguments of `score`, so episodes can be scored in any order.

    Attributes:
        parallel: Number of episodes that are best scored at the same time, in threads; 1 = one after the other.
    """

    parallel: int = 1

    @abstractmethod
    def score(
        self, task: str, frames: Sequence[Frame], actions: Sequence[str], success: bool | None = None
    ) -> float | None:
        """Score an episode, or its beginning.

        Args:
            task: The instruction, e.g. "turn on Wi-Fi".
            frames: n + 1 screenshots, the oldest first, uint8 [H, W, 3].
            actions: The n actions between them, as text.
            success: The environment's own verdict on the last frame, for the evaluator `state` and for wrappers; all
                others must ignore it. None = unknown.

        Returns:
            Probability of success, 0 to 1; None = the evaluator abstains.
        """

    def usage(self) -> Usage:
        """Return what the answers of models have cost since the evaluator was created."""
        return Usage()


def check_episode(frames: Sequence[Frame], actions: Sequence[str]) -> None:
    """Check the lengths of an episode.

    Args:
        frames: As in `Evaluator.score`.
        actions: As in `Evaluator.score`.

    Raises:
        ValueError: There is not exactly one frame more than there are actions.
    """
    if len(frames) != len(actions) + 1:
        raise ValueError(f"{len(frames)} frames for {len(actions)} actions; an episode of n actions has n + 1 frames")
