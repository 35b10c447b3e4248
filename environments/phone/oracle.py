"""The oracle of an episode: the actions of its template's script, then those that end it."""

from __future__ import annotations

from ..common.screen_actions import ScreenAction
from .template import Template
from .user import Actions, User


class Script:
    """Running script of an episode.

    Args:
        task: The task of the episode.
        user: Finds elements on the screen.
    """

    def __init__(self, task: Template, user: User) -> None:
        self._actions = self._all(task, user)

    def next_action(self) -> ScreenAction:
        """Return the next action.

        Raises:
            NotOnScreen: The script does not find an element.
            StopIteration: The script has ended the episode already.
        """
        return next(self._actions)

    def _all(self, task: Template, user: User) -> Actions:
        yield from task.script(user)
        yield ScreenAction("complete") if task.answer is None else ScreenAction("answer", text=task.answer)
