"""Candidates for Digi-Q that a VLM writes: the recorded action of each step, and samples of the policy before training.

This is how the released code of Digi-Q proposes actions. Sampling takes long, so the candidates are kept in a file of
the data set, by a key of everything on which they depend.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pr2l.core import digest
from pr2l.core.config import RunConfig
from pr2l.data.candidates import Candidates, text_form
from pr2l.data.recording import Recording
from pr2l.encoders.base import Encoder
from pr2l.policies.common.policy import Policy
from pr2l.rollout import build
from pr2l.rollout.vec_text import TextCodec


def text_candidates(encoder: Encoder, recording: Recording, config: RunConfig) -> Candidates:
    """Return the candidates of each step of a data set, whose actions are token ids, int64 [steps, N, R].

    Args:
        encoder: Encoder of the config, on whose VLM the policy is made.
        recording: Data set with actions as text.
        config: Config with `text_policy` and Digi-Q, whose options n and proposal_temperature are used.

    Raises:
        UserError: The data set, the environment or the policy do not suit.
    """
    codec = build.text_codec(config, encoder)
    assert codec is not None
    policy = build.text_policy(config, encoder, recording.action_space)
    file = recording.folder / "candidates" / f"{digest.of_json(_key(policy, codec, recording, config))}.safetensors"
    if not file.is_file():
        _save(file, _sampled(policy, codec, recording, config))
    actions = load_file(file)["actions"].long().numpy()
    return Candidates(actions, _texts(actions, codec, recording))


def _key(policy: Policy, codec: TextCodec, recording: Recording, config: RunConfig) -> dict[str, Any]:
    """Return everything on which the candidates depend, as JSON values."""
    options = config.options("algorithm")
    return {
        "data": recording.key,
        "vlm": codec.vlm.key(),
        **codec.render.key(),
        "adapter": digest.of_tensors(policy.state_dict()),
        "tokens": [codec.action_tokens, codec.render.tokens, codec.last_action],
        "sampling": [options.n, options.proposal_temperature, config.seed],
    }


def _sampled(policy: Policy, codec: TextCodec, recording: Recording, config: RunConfig) -> torch.Tensor:
    """Return the recorded actions and the samples, int32 [steps, N, R], without changing torch's random generator."""
    options, parts = config.options("algorithm"), []
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        for number in range(recording.episodes):
            frames, contexts = recording.frames(number)[:-1], recording.contexts_of(number)[:-1]
            texts = recording.episode(number).actions
            recorded, last_actions = torch.from_numpy(codec.actions(texts)), ["", *texts[:-1]]
            for start in range(0, len(frames), config.num_envs):
                rows = slice(start, start + config.num_envs)
                read = codec.observations(frames[rows], contexts[rows], last_actions[rows])
                observations = {key: torch.from_numpy(values) for key, values in read.items()}
                samples = policy.sample(observations, options.n - 1, options.proposal_temperature).cpu()
                parts.append(torch.cat([recorded[rows][None], samples]).transpose(0, 1))
    return torch.cat(parts).int()


def _save(file: Path, actions: torch.Tensor) -> None:
    file.parent.mkdir(exist_ok=True)
    partial = file.with_name(f".partial-{os.getpid()}-{file.name}")
    save_file({"actions": actions.contiguous()}, partial)
    partial.rename(file)


def _texts(actions: np.ndarray, codec: TextCodec, recording: Recording) -> list[list[str]]:
    """Return the text forms of the candidates of each step; "" = malformed."""
    text_of = text_form(recording)
    contexts = [context for number in range(recording.episodes) for context in recording.contexts_of(number)[:-1]]
    return [
        [text_of(text, context) for text in codec.texts(row)] for row, context in zip(actions, contexts, strict=True)
    ]
