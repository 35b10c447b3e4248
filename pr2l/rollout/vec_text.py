"""Environments for a policy that reads the frame and the prompt itself and writes its action as text.

    observation   tokens, mask, proprio   of the frozen encoder, for values
                  frame                   uint8 [H, W, 3]
                  prompt                  uint8 [P], UTF-8 of the prompt that the encoder reads, and of the last action
    action        int64 [R], token ids    the tokens that the VLM generated, NO_TOKEN at the end

The environment gets the text of the tokens. The ids stay the action of the learner, because a text can be tokenised in
several ways, and its log-probability must be that of the tokens that were generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from pr2l.core.errors import UserError
from pr2l.core.types import Contexts, Frames
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import uncached
from pr2l.encoders.common.prompts import PromptRenderer
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.vlms.base import VLM

NO_TOKEN = -1  # pads the token ids of an action
LAST_ACTION = " Last action: {}"  # follows the prompt after the first step of an episode
LONGEST = 40  # bytes of the last action in a prompt


class TextCodec:
    """Conversion between the texts of prompts and actions and the arrays of observations and actions.

    Args:
        encoder: Encoder of a prompted VLM, whose prompt and tokenizer are used.
        prompt_bytes: P, largest number of bytes of a prompt.
        action_tokens: R, largest number of tokens of an action, its end token included.
        last_action: Whether the policy reads its last action after the prompt.

    Raises:
        UserError: The encoder reads no prompt, or several frames.
    """

    def __init__(self, encoder: Encoder, prompt_bytes: int, action_tokens: int, *, last_action: bool) -> None:
        inner: Any = uncached(encoder)
        if not isinstance(getattr(inner, "prompts", None), PromptRenderer) or not hasattr(inner, "vlm"):
            raise UserError(
                "text_policy needs an encoder of a prompted VLM, whose frame and prompt the policy reads; use "
                "encoder=prompted"
            )
        if encoder.frame_history > 1:
            raise UserError(
                f"text_policy reads one frame, but the prompt takes {encoder.frame_history}; use another prompt"
            )
        self.render: PromptRenderer = inner.prompts
        self.vlm: VLM = inner.vlm
        self.prompt_bytes, self.action_tokens, self.last_action = prompt_bytes, action_tokens, last_action

    def observation_space(self, observations: spaces.Dict, frames: spaces.Dict) -> spaces.Dict:
        """Return the space of observations with frame and prompt.

        Args:
            observations: Space of the observations of `VecEmbed`.
            frames: Space of the environment's own observations.
        """
        prompt = spaces.Box(0, 255, (self.prompt_bytes,), np.uint8)
        return spaces.Dict({**observations.spaces, "frame": frames["frame"], "prompt": prompt})

    @property
    def action_space(self) -> spaces.Box:
        """Space of the learner's actions, int64 [R]."""
        return spaces.Box(NO_TOKEN, len(self.vlm.tokenizer) - 1, (self.action_tokens,), np.int64)

    def observations(
        self, frames: Frames, contexts: Contexts, last_actions: Sequence[str]
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """Return the parts of observations that the policy reads.

        Args:
            frames: uint8 [B, H, W, 3].
            contexts: B contexts.
            last_actions: Texts of the B actions before, as the policy wrote them; "" = none.

        Raises:
            UserError: A prompt is not a text, or it is too long.
        """
        rows = zip(self.render(contexts), last_actions, strict=True)
        return {"frame": frames, "prompt": np.stack([self._prompt(*row) for row in rows])}

    def _prompt(self, text: Any, last_action: str) -> npt.NDArray[np.uint8]:
        if not isinstance(text, str):
            raise UserError("text_policy needs a prompt with `text:`, not with `messages:`; use another prompt")
        if self.last_action and last_action:
            text += LAST_ACTION.format(last_action.replace("\0", "").encode()[:LONGEST].decode(errors="ignore"))
        data = text.encode()
        if len(data) > self.prompt_bytes:
            raise UserError(
                f"a prompt has {len(data)} bytes, more than text_policy.prompt_bytes={self.prompt_bytes}: {text!r}; "
                "use a larger prompt_bytes, or a smaller encoder_options.max_prompt_tokens"
            )
        return np.frombuffer(data.ljust(self.prompt_bytes, b"\0"), np.uint8)

    def texts(self, actions: npt.NDArray[np.int64]) -> list[str]:
        """Return the texts of actions, without special tokens.

        Args:
            actions: int64 [B, R].
        """
        return [self.vlm.decode(row[row != NO_TOKEN].tolist()) for row in actions]

    def actions(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the actions of texts, each tokenised by itself and followed by the VLM's end token.

        Args:
            texts: B texts, such as those of recorded episodes.

        Returns:
            int64 [B, R].

        Raises:
            UserError: A text has too many tokens.
        """
        rows = [self.vlm.answer_ids(text) for text in texts]
        longest = max(range(len(rows)), key=lambda row: len(rows[row]))
        if len(rows[longest]) > self.action_tokens:
            raise UserError(
                f"the action {texts[longest]!r} has {len(rows[longest])} tokens with its end, more than "
                f"text_policy.max_new_tokens={self.action_tokens}; use a larger max_new_tokens"
            )
        return padded_ids(rows, self.action_tokens)


def padded_ids(rows: Sequence[Sequence[int]], length: int) -> npt.NDArray[np.int64]:
    """Return token ids of several actions as one array, int64 [B, R], with NO_TOKEN at the ends.

    Args:
        rows: Token ids of B actions.
        length: R.
    """
    return np.array([[*ids, *[NO_TOKEN] * (length - len(ids))] for ids in rows], np.int64)


def prompt_texts(prompts: npt.NDArray[np.uint8]) -> list[str]:
    """Return the texts of prompts.

    Args:
        prompts: uint8 [B, P], from `TextCodec.observations`.
    """
    return [row.tobytes().rstrip(b"\0").decode() for row in prompts]


class VecText(VecEmbed):
    """VecEmbed whose observations also have frame and prompt, and whose actions are token ids.

    Args:
        venv: Environments as for VecEmbed, with actions as text.
        encoder: Encoder of the frames.
        codec: Conversion of prompts and actions.
        embed_terminated: As in VecEmbed.
    """

    def __init__(self, venv: VecEnv, encoder: Encoder, codec: TextCodec, *, embed_terminated: bool = True) -> None:
        super().__init__(venv, encoder, embed_terminated=embed_terminated)
        self.codec = codec
        self._written = [""] * self.num_envs  # text of the last action of each environment
        frames: Any = venv.observation_space
        observations: Any = self.observation_space
        self.observation_space = codec.observation_space(observations, frames)
        self.action_space = codec.action_space

    def environment_actions(self, actions: Any) -> Any:
        return self.codec.texts(actions)

    def step_async(self, actions: Any) -> None:
        self._written = self.codec.texts(actions)
        texts: Any = self._written
        self.venv.step_async(texts)

    def send(self, rows: Sequence[int], actions: Any) -> None:
        texts = self.codec.texts(actions)
        for row, text in zip(rows, texts, strict=True):
            self._written[row] = text
        self._in_process().send(rows, texts)

    def _embed_step(
        self, rows: Sequence[int], observations: Any, rewards: Any, dones: Any, infos: Any
    ) -> VecEnvStepReturn:
        for row, info in zip(rows, infos, strict=True):
            info["last_action"] = self._written[row]
        return super()._embed_step(rows, observations, rewards, dones, infos)

    def _embed(self, observations: Any, infos: list[dict[str, Any]], count: int) -> dict[str, np.ndarray]:
        embedded = super()._embed(observations, infos, count)
        contexts = [info["context"] for info in infos]
        last_actions = [info.get("last_action", "") for info in infos]  # the info of a reset has none
        return embedded | self.codec.observations(observations["frame"], contexts, last_actions)
