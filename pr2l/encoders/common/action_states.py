"""Features of actions: a frozen VLM's states about a frame and an action, as Digi-Q learns values of actions on.

frame, action --question--> VLM --mean over tokens--> one vector per action

text     one frame, N questions:   Does tap(0.500, 0.250) change the screen?      one vision pass for all N
drawn    N frames, one question:   Does the action drawn on the screen change it?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange

from pr2l.core.errors import UserError
from pr2l.core.prompt import slots
from pr2l.core.types import Context, Contexts, Frame, Frames
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import uncached
from pr2l.environments.common.drawing import draw

if TYPE_CHECKING:
    from pr2l.vlms import VLM

View = Literal["text", "drawn"]
QUESTIONS: Mapping[View, str] = {
    "text": "Does {action} change the screen?",
    "drawn": "Does the action drawn on the screen change it?",
}
NO_ACTION = "no action"  # the text of a malformed action, which does nothing


class ActionStates:
    """Encoder of pairs of a frame and an action.

    Args:
        vlm: VLM, whose options choose the layers and the generated answer.
        view: Whether the VLM reads the action (text) or sees it on the frame (drawn).
        question: The question, with {action} for the action's text and slots of the context; None = that of QUESTIONS.
        segment: Tokens whose mean state is the feature.

    Attributes:
        width: Width of a feature: the width of a state times the number of layers.

    Raises:
        UserError: With view=text the question has no {action}, or segment is "generated" and the VLM generates nothing.
    """

    def __init__(
        self, vlm: VLM, view: View, question: str | None = None, segment: Literal["generated", "prompt"] = "generated"
    ) -> None:
        self.vlm, self.view, self.segment = vlm, view, segment
        self.question = QUESTIONS[view] if question is None else question
        self.width = len(vlm.options.layers) * vlm.hidden_size
        if "action" not in slots(self.question, "algorithm_options.action_question") and view == "text":
            raise UserError(
                f"algorithm_options.action_question={self.question!r} does not name the action; write {{action}} where "
                f"its text goes, as in {QUESTIONS['text']!r}"
            )
        if segment == "generated" and not vlm.new_tokens:
            raise UserError(
                "algorithm_options.action_tokens=generated, but the VLM generates no tokens; use action_tokens=prompt, "
                "or vlm_options.generation=greedy"
            )

    def key(self) -> dict[str, Any]:
        """Return everything that features depend on beside frame, action and context, as JSON values."""
        return {"vlm": self.vlm.key(), "view": self.view, "question": self.question, "segment": self.segment}

    @torch.no_grad()
    def encode(self, frames: Frames, actions: Sequence[Sequence[str]], contexts: Contexts) -> torch.Tensor:
        """Return the features of N actions of each frame, float32 [B, N, width].

        Args:
            frames: uint8 [B, H, W, 3].
            actions: For each frame, the texts of N actions; "" = an action that does nothing.
            contexts: One context per frame.

        Raises:
            UserError: A context lacks a slot of the question.
        """
        pairs = zip(frames, actions, contexts, strict=True)
        rows = [
            shown(frame, text, self.view, self.question, context) for frame, texts, context in pairs for text in texts
        ]
        hidden = self.vlm.hidden(np.stack([image for image, _ in rows]), [question for _, question in rows])
        span = hidden.spans[self.segment]
        real = hidden.mask[:, None, span, None].float()  # [B * N, 1, T, 1]
        mean = (hidden.states[:, :, span].float() * real).sum(2) / real.sum(2).clamp(min=1)
        return rearrange(mean, "(b n) l d -> b n (l d)", b=len(frames))


def shown(frame: Frame, action: str, view: View, question: str, context: Context) -> tuple[Frame, str]:
    """Return the image and the question of one action.

    Args:
        frame: uint8 [H, W, 3].
        action: Text form of the action; "" = an action that does nothing.
        view: As in `ActionStates`.
        question: The question, with slots.
        context: Context of the frame.

    Raises:
        UserError: The context lacks a slot of the question.
    """
    values = {**context, "action": action or NO_ACTION}
    if missing := [slot for slot in slots(question, "algorithm_options.action_question") if slot not in values]:
        raise UserError(
            f"algorithm_options.action_question has the slot {{{missing[0]}}}, but the slots are "
            f"{', '.join(f'{{{name}}}' for name in sorted(values))}"
        )
    image = frame if view == "text" else draw(frame, action or None)
    return image, question.format_map(values)


def action_states(encoder: Encoder, options: Any) -> ActionStates | None:
    """Return what computes the features of actions for an algorithm; None = it uses none.

    Args:
        encoder: Encoder of the run; its VLM is used.
        options: Options of the algorithm. It uses features if it has the options `action_features`, `action_question`
            and `action_tokens` of Digi-Q, and the first is not "heads".

    Raises:
        UserError: The encoder has no VLM, or the options do not fit the VLM.
    """
    view: Any = getattr(options, "action_features", "heads")
    if view == "heads":
        return None
    vlm = getattr(uncached(encoder), "vlm", None)
    if vlm is None:
        raise UserError(
            f"algorithm_options.action_features={view} needs a VLM, but {type(uncached(encoder)).__name__} has none; "
            "use an encoder with a VLM, such as prompted, or action_features=heads"
        )
    return ActionStates(vlm, view, options.action_question, options.action_tokens)
