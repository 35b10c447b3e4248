"""Environment with a touch screen: tap the button of the colour that the goal names.

The screen has three buttons in random places, one below the other. The episode ends after a tap on a button, after
"complete" or "impossible", or after 6 steps; it is a success if the button has the right colour.
"""

from typing import Literal

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict

from pr2l.environments.common.drawing import draw
from pr2l.environments.common.screen_action_space import ActionText, ScreenActionSpace, TextActions, text_of
from pr2l.environments.common.screen_actions import MalformedAction, parse, pixel

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 220)}
HEIGHT, WIDTH, SIDE = 96, 54, 14  # of the screen and of a button, in pixels
HORIZON = 6
GRID = ScreenActionSpace(rows=16, columns=9, words=8, longest=2)


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    actions: Literal["heads", "text"] = "text"


class Task:
    id, prompt, horizon = "buttons", None, HORIZON
    reward = success = "a tap on the button of the right colour"
    contexts = tuple({"goal": f"tap the {colour} button"} for colour in COLOURS)


TASKS = {"buttons": Task()}


def kinds(task):
    return tuple(COLOURS)


def action_text(action, context, options):
    return text_of(action, TextActions() if options.actions == "text" else GRID, context["goal"])


def make(task="buttons", options=None, *, split="train", labels=False):
    return Buttons(options or Defaults(), labels)


class Buttons(gym.Env):
    metadata = {"render_fps": 2}

    def __init__(self, options=None, labels=False):
        self.options, self.labels = options or Defaults(), labels
        self.action_space = ActionText() if self.options.actions == "text" else GRID.space
        self.observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.colours = [str(name) for name in self.np_random.permutation(list(COLOURS))]
        lefts = self.np_random.integers(0, WIDTH - SIDE, 3)
        self.boxes = [(int(x), 10 + 28 * row, int(x) + SIDE, 10 + 28 * row + SIDE) for row, x in enumerate(lefts)]
        self.goal = f"tap the {self.np_random.choice(list(COLOURS))} button"
        self.steps = self.malformed = 0
        return self._observation(), self._info(False)

    def step(self, action):
        self.steps += 1
        touched, ended = None, False
        try:
            done = self._read(action)
            ended = done.type in ("complete", "impossible")
            touched = self._touched(done) if done.type == "tap" else None
        except MalformedAction:
            self.malformed += 1
        success = touched is not None and touched == self.goal.split()[2]
        terminated = touched is not None or ended
        return self._observation(), float(success), terminated, self.steps == HORIZON, self._info(success)

    def draw_action(self, frame, action):
        return draw(frame, action if self.options.actions == "text" else self._read(action))

    def _read(self, action):
        return parse(action) if self.options.actions == "text" else GRID.decode(action, self.goal)

    def _touched(self, action):
        x, y = pixel(action.x, WIDTH), pixel(action.y, HEIGHT)
        inside = (left <= x < right and top <= y < bottom for left, top, right, bottom in self.boxes)
        return next((colour for colour, hit in zip(self.colours, inside, strict=True) if hit), None)

    def _observation(self):
        frame = np.full((HEIGHT, WIDTH, 3), 245, np.uint8)
        for colour, (left, top, right, bottom) in zip(self.colours, self.boxes, strict=True):
            frame[top:bottom, left:right] = COLOURS[colour]
        return {"frame": frame}

    def _info(self, success):
        info = {"context": {"goal": self.goal}, "success": bool(success)}
        info["measures"] = {"malformed_actions": self.malformed}
        if self.labels:
            info["labels"] = [
                {"name": colour, "box": box, "distance": 0.0}
                for colour, box in zip(self.colours, self.boxes, strict=True)
            ]
        return info
