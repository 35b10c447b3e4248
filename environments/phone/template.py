"""Task templates: a text with parameters, the start state, the goal state, and how success is read from the state.

A file in tasks/ defines one template or several. A template changes the random state if the task needs something in it
(`prepare`), and says how the state looks when the task is done (`solve`). Success needs both: everything that `solve`
changes has changed, and nothing else has, such as a contact that was deleted on the way.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from copy import deepcopy
from random import Random
from typing import Any, ClassVar, Literal, TypeAlias

from .diff import Change, plain, same, unexpected
from .state import Document
from .user import Actions, User

Parameters: TypeAlias = dict[str, Any]

# What every task may change: what is on the screen, which pages and messages were opened, and dismissed notifications.
ALWAYS_FREE = (
    "screen", "browser/history", "browser/url", "messages/*/read", "messages/*/time", "notifications",
)  # fmt: skip
STEPS_PER_COMPLEXITY = 10  # as in AndroidWorld


class Template(ABC):
    """A task whose parameters are drawn; an instance is the task of one episode.

    Args:
        state: The state at the start of the episode, which `prepare` may change.
        rng: The random generator of the parameters.

    Attributes:
        text: The instruction, with parameters in braces.
        apps: The apps that the task needs.
        complexity: A tenth of the limit of steps, as in AndroidWorld.
        free: Patterns of paths that the task may change in any way, besides ALWAYS_FREE; see `diff.same`.
        family: "app" for tasks in the apps, "webshop" and "general" for tasks like those of Android-in-the-Wild.
        verify: Whether an episode never ends before the agent declares it complete, because the state can satisfy the
            task before the agent has checked it.
        params: The parameters of the episode; `text` may use a part of them.
    """

    text: ClassVar[str]
    apps: ClassVar[tuple[str, ...]]
    complexity: ClassVar[float] = 1.0
    free: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[Literal["app", "webshop", "general"]] = "app"
    verify: ClassVar[bool] = False

    def __init__(self, state: Document, rng: Random) -> None:
        self.params = self.prepare(state, rng)

    @abstractmethod
    def prepare(self, state: Document, rng: Random) -> Parameters:
        """Draw the parameters, and change the start state where the task needs it.

        Args:
            state: The random state, which may be changed.
            rng: The random generator.

        Returns:
            The parameters; those that `text` names fill it.
        """

    def solve(self, state: Document) -> None:  # noqa: B027  # a question has nothing to change
        """Change a state as an ideal user would; the default, for questions, changes nothing.

        Args:
            state: The state at the start, which is changed.
        """

    def reached(self, state: Document) -> bool:
        """Return whether the right screen is open at the end; the default is True.

        Args:
            state: The state at the end.
        """
        return True

    @property
    def answer(self) -> str | None:
        """The right answer, None if the task is not a question; commas separate the items of a list."""
        return None

    @abstractmethod
    def script(self, user: User) -> Actions:
        """Do the task by touch, as a user would who follows a manual; the oracle of the task.

        Args:
            user: Finds elements on the screen; its methods are generators of actions.

        Yields:
            The actions, without those that end the episode.
        """

    @property
    def goal(self) -> str:
        """The instruction."""
        return self.text.format(**self.params)

    @classmethod
    def step_limit(cls) -> int:
        """Return the limit of steps of an episode."""
        return int(STEPS_PER_COMPLEXITY * cls.complexity)

    def solved(self, before: Document) -> Document:
        """Return the state after an ideal user's work.

        Args:
            before: The state at the start.
        """
        after = deepcopy(before)
        self.solve(after)
        return after

    def success(self, before: Document, after: Document, answer: str | None = None) -> bool:
        """Return whether the task is done, and nothing else was changed.

        Args:
            before: The state at the start.
            after: The state at the end.
            answer: The agent's answer, None if it gave none.
        """
        answered = self.answer is None or (answer is not None and same_answer(answer, self.answer))
        return answered and self.reached(after) and same(self.solved(before), after, (*ALWAYS_FREE, *self.free))

    def side_effects(self, before: Document, after: Document) -> list[Change]:
        """List the changes that the task does not need.

        Args:
            before: The state at the start.
            after: The state at the end.
        """
        return unexpected(before, self.solved(before), after, (*ALWAYS_FREE, *self.free))


class Composite(Template):
    """Task of several templates, to be done one after the other.

    Attributes:
        parts: The templates; each prepares and solves the state that the one before it leaves.
    """

    parts: ClassVar[tuple[type[Template], ...]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.apps = tuple(dict.fromkeys(app for part in cls.parts for app in part.apps))
        cls.free = tuple(dict.fromkeys(path for part in cls.parts for path in part.free))
        cls.complexity = sum(part.complexity for part in cls.parts)
        cls.text = ". Then: ".join(part.text for part in cls.parts)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        self.tasks = [part(state, rng) for part in self.parts]
        return {}

    @property
    def goal(self) -> str:
        return ". Then: ".join(task.goal for task in self.tasks)

    @property
    def answer(self) -> str | None:
        return next((task.answer for task in self.tasks if task.answer is not None), None)

    def solve(self, state: Document) -> None:
        for task in self.tasks:
            task.solve(state)

    def reached(self, state: Document) -> bool:
        return self.tasks[-1].reached(state)

    def script(self, user: User) -> Actions:
        for task in self.tasks:
            yield from task.script(user)


def same_answer(answer: str, expected: str) -> bool:
    """Return whether two answers have the same items, in any order, case and punctuation.

    Args:
        answer: The agent's answer.
        expected: The right answer; commas separate items.
    """
    return sorted(_items(answer)) == sorted(_items(expected))


def _items(answer: str) -> list[str]:
    parts = re.split(r",(?!\d{3}\b)|;|\n|\band\b", answer.replace("$", ""))
    words = (plain(re.sub(r"[^\w\s.:@+/-]|\.(?!\d)", " ", part)) for part in parts)
    return [item for item in words if item]
