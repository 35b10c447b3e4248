"""Agent that operates a screen by text: it asks a VLM for the next action, without training.

    goal, screenshot, grammar of the actions, last actions --agent.generate--> response --> action in its text form

    venv = InProcessVecEnv([...])                          # environments with actions="text"
    episodes = play_screens(ScreenAgent(PromptedAgent(load_vlm(...))), venv, 20)

A response that contains no action counts as malformed. The environment gets it as it is and does nothing, and the VLM
reads in the next step why it was malformed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt
from stable_baselines3.common.vec_env import VecEnv

from pr2l.agents.base import Agent
from pr2l.agents.marks import GRAMMAR, Mark, draw_marks, marks_of, parse_with_marks
from pr2l.core.errors import UserError
from pr2l.core.messages import Message, image_part, text_part
from pr2l.core.types import Frame, Frames, Labels
from pr2l.environments.common.screen_actions import (
    TYPES,
    ActionType,
    MalformedAction,
    describe,
    find,
    format,
    shorten,
)
from pr2l.rollout.vec_frames import VecFrames
from pr2l.training.evaluate import Actor, play
from pr2l.training.video import EpisodeVideo

LONGEST = 1000  # characters of a malformed response that the environment gets

TEMPLATE = """You operate a device with a touch screen. The image shows the current screen.
Task: {goal}

{history}You can take one of these actions:
{actions}

{request}"""
REQUEST = "Answer with the next action only."
REQUEST_THOUGHT = "Write one sentence about what to do next, and then the next action on a line of its own."


class Defaults(BaseModel):
    """Options of a zero-shot agent on a screen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    history: NonNegativeInt = 5  # last actions in the prompt
    thought: bool = False  # ask for a sentence before the action, which helps large models
    marks: bool = False  # number the elements of info["labels"], so that the VLM can name them instead of points
    mark_names: bool = False  # with marks, list their names too; these are ground truth that a person has to read
    ignore: tuple[str, ...] = ("keyboard/",)  # beginnings of names without a mark; type("...") replaces the keys
    types: tuple[ActionType, ...] = TYPES  # types of actions that the environment accepts
    # text in place of the whole prompt, in which {goal} is the instruction, for a VLM that knows few words; "" = the
    # task, the actions and the last actions
    question: str = ""
    temperature: NonNegativeFloat = 0.0  # of sampling; 0 = greedy
    seed: int = 0  # of sampling


class Step(NamedTuple):
    """Decision of the agent about one screen.

    Args:
        action: The action in its text form; for a malformed response, what was read as an action.
        response: What the VLM wrote.
        problem: Why the response is malformed; "" = it is not.
    """

    action: str
    response: str
    problem: str = ""


class ScreenAgent:
    """Zero-shot agent on screens, for several episodes at once.

    Args:
        agent: Agent that generates the responses.
        options: None = the defaults.

    Attributes:
        actions: Number of responses so far.
        malformed: Number of them that were malformed.
    """

    def __init__(self, agent: Agent, options: Defaults | None = None) -> None:
        self.agent, self.options = agent, options or Defaults()
        self.actions = self.malformed = 0
        self._history: list[list[Step]] = []  # per environment, of the running episode

    def act(
        self,
        frames: Frames | Sequence[Frame],
        goals: Sequence[str],
        starts: Sequence[bool] | np.ndarray,
        labels: Sequence[Labels] | None = None,
    ) -> list[Step]:
        """Decide about the next actions of N environments.

        Args:
            frames: N screenshots, uint8 [H, W, 3].
            goals: N instructions.
            starts: N flags, True if the environment begins an episode.
            labels: N lists of labels with boxes in pixels, if the option `marks` is on.

        Returns:
            N steps, whose `action` is for the environment.

        Raises:
            UserError: The option `marks` is on, and there are no labels.
        """
        if self.options.marks and labels is None:
            raise UserError("marks=true needs labels; make the environment with labels=True")
        if len(self._history) != len(goals):
            self._history = [[] for _ in goals]
        self._history = [[] if start else past for past, start in zip(self._history, starts, strict=True)]
        marks = [self.marks(frame, row) for frame, row in zip(frames, labels or [[]] * len(goals), strict=True)]
        rows = list(zip(frames, goals, self._history, marks, strict=True))
        conversations = [self.messages(*row) for row in rows]
        responses = self.agent.generate(conversations, 1, self.options.temperature, self.options.seed)
        steps = [read(response, row[3], row[0]) for (response,), row in zip(responses, rows, strict=True)]
        for past, step in zip(self._history, steps, strict=True):
            past.append(step)
        self.actions += len(steps)
        self.malformed += sum(bool(step.problem) for step in steps)
        return steps

    def marks(self, frame: Frame, labels: Labels) -> list[Mark]:
        """Return the marks of a frame; none if the option is off.

        Args:
            frame: uint8 [H, W, 3].
            labels: The labels of the frame.
        """
        return marks_of(labels, frame, self.options.ignore) if self.options.marks else []

    def messages(
        self, frame: Frame, goal: str, history: Sequence[Step] = (), marks: Sequence[Mark] = ()
    ) -> list[Message]:
        """Return the conversation that asks for the next action.

        Args:
            frame: uint8 [H, W, 3], the screenshot, without marks.
            goal: The instruction.
            history: All earlier steps of the episode.
            marks: The marks to draw on the screenshot.
        """
        actions = [describe(self.options.types), *([GRAMMAR] if self.options.marks else [])]
        if marks and self.options.mark_names:
            actions.append("\n".join(f"{number}: {mark.name}" for number, mark in enumerate(marks, start=1)))
        if self.options.question:
            text = self.options.question.replace("{goal}", goal)
            return [{"role": "user", "content": [image_part(draw_marks(frame, marks)), text_part(text)]}]
        text = TEMPLATE.format(
            goal=goal,
            history=self._history_text(history),
            actions="\n".join(actions),
            request=REQUEST_THOUGHT if self.options.thought else REQUEST,
        )
        return [{"role": "user", "content": [image_part(draw_marks(frame, marks)), text_part(text)]}]

    def _history_text(self, history: Sequence[Step]) -> str:
        first = max(len(history) - self.options.history, 0)
        lines = [f"{number}. {history_line(step)}" for number, step in enumerate(history[first:], start=first + 1)]
        return "\n".join(["Your last actions:", *lines, "", ""]) if lines else ""


def history_line(step: Step) -> str:
    """Return a step as the prompt of the next steps has it."""
    return f"{shorten(step.action)} had no effect: {step.problem}" if step.problem else step.action


def read(response: str, marks: Sequence[Mark], frame: Frame) -> Step:
    """Read the last action in a response.

    Args:
        response: What the VLM wrote.
        marks: The marks on the screen.
        frame: uint8 [H, W, 3], of the size to which the marks' boxes refer.
    """
    text = find(response)
    try:
        return Step(format(parse_with_marks(text, marks, frame)), response)
    except MalformedAction as error:
        return Step(text[:LONGEST], response, str(error))


def play_screens(
    agent: ScreenAgent, venv: VecEnv, episodes: int, video: EpisodeVideo | None = None
) -> list[dict[str, Any]]:
    """Play evaluation episodes.

    Args:
        agent: The agent.
        venv: N environments of `SeededEpisodes` with actions as text, whose contexts have "goal". With labels, if the
            agent uses marks.
        episodes: Number of episodes.
        video: Video to which to add the frames; None = no video.

    Returns:
        "episode" infos, as `pr2l.training.evaluate.play` returns them.

    Raises:
        UserError: A context has no "goal", or the agent needs labels that the environments do not have.
    """
    return play(*screen_player(agent, venv), episodes, video)


def screen_player(agent: ScreenAgent, venv: VecEnv) -> tuple[VecFrames, Actor]:
    """Return the environments in which an agent plays, and its actor, for `pr2l.training.evaluate.play`.

    Args:
        agent: The agent.
        venv: Environments, see `play_screens`.
    """
    screens = VecFrames(venv)

    def act(observation: Any, starts: np.ndarray) -> Any:
        if any("goal" not in context for context in screens.contexts):
            raise UserError(f"the context has no 'goal', the instruction for the agent: {screens.contexts[0]}")
        goals = [context["goal"] for context in screens.contexts]
        steps = agent.act(screens.frames, goals, starts, screens.labels)
        screens.answers = [step.response for step in steps]
        return [step.action for step in steps]

    return screens, act
