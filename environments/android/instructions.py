"""Tasks that are only instructions, in the style of Android in the Wild: a text file with one instruction per line.

Nothing on the phone says whether such a task is done, so the reward is always 0 and `success` is false. A success
evaluator judges the recorded screens later. Python >= 3.10, standard library only.

DigiRL publishes its tasks in this format. All of its 432 test instructions for "general" are also in its training file,
so a policy is tested on what it was trained on. Here the instructions of the two splits never overlap, unless the
option `overlap` allows it.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from ..base import UserError
from ..common.screen_actions import ScreenAction

HELD_OUT = 5  # one in so many instructions of a single file is for evaluation


def read(path: str) -> list[str]:
    """Return the distinct instructions of a file in their order; empty lines and lines with # are left out.

    Args:
        path: The file.

    Raises:
        UserError: If the file cannot be read, or has no instruction.
    """
    try:
        lines = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"instructions: cannot read {path!r}: {error}") from error
    found = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not found:
        raise UserError(f"instructions: {path!r} has none; write one instruction per line")
    return found


def split_lists(training: list[str], evaluation: list[str] | None, *, overlap: bool) -> dict[str, list[str]]:
    """Return the instructions of both splits.

    Args:
        training: The instructions for training.
        evaluation: The instructions for evaluation; None = hold out one in HELD_OUT of `training`. The hash of an
            instruction decides, so adding lines moves no other line to the other split.
        overlap: Whether an instruction may be in both lists, as in DigiRL's files.

    Raises:
        UserError: If an instruction is in both lists and `overlap` is false, or a split is empty.
    """
    if evaluation is None:
        evaluation = [instruction for instruction in training if _is_held_out(instruction)]
        training = [instruction for instruction in training if not _is_held_out(instruction)]
        if not training or not evaluation:
            raise UserError(
                "instructions: the file is too short to hold out instructions for evaluation; write more of them, or "
                "set environment_options.evaluation_instructions to another file"
            )
    known = set(training)
    both = [instruction for instruction in evaluation if instruction in known]
    if both and not overlap:
        raise UserError(
            f"instructions: {len(both)} of {len(evaluation)} instructions for evaluation are also for training, such "
            f"as {both[0]!r}; remove them from one file, or set environment_options.overlap=true to allow it"
        )
    return {"train": training, "evaluation": evaluation}


def _is_held_out(instruction: str) -> bool:
    digest = hashlib.sha256(" ".join(instruction.lower().split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


class Instructions:
    """Source of episodes from a list of instructions.

    Args:
        instructions: The instructions.
        limit: Steps of an episode.
    """

    def __init__(self, instructions: list[str], limit: int) -> None:
        self._instructions, self._limit = instructions, limit

    def begin(self, seed: int) -> tuple[str, int]:
        """Return the instruction that a seed chooses, and the step limit.

        Args:
            seed: The seed of the episode.
        """
        return random.Random(seed).choice(self._instructions), self._limit

    def score(self, end: ScreenAction | None) -> float:
        """Return 0, because nothing on the phone says whether the task is done.

        Args:
            end: Not used.
        """
        return 0.0

    def end(self) -> None:
        """Do nothing: there is nothing to clean up."""
