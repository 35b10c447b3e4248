"""Policy of a VLM that writes its actions as text, for the algorithms of policies/ that train log-probabilities.

    frame, prompt --VLM with LoRA--> token ids of the action       choose, sample
    frame, prompt, token ids --one pass--> log-probabilities       log_prob

    log pi(a|s) = sum of log p(token | frame, prompt, earlier tokens), over the tokens that were generated

Only the LoRA weights are parameters, so checkpoints contain nothing else of the VLM. The values that an algorithm
learns read the hidden states of the VLM without the adapter, which the encoder computes for the same frame and prompt.
As DigiRL does, the policy shares no trained weight with the values.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, field_validator
from torch import nn
from torch.utils.checkpoint import checkpoint

from pr2l.agents import base
from pr2l.agents.base import Response
from pr2l.agents.trainable import Defaults as TrainableDefaults
from pr2l.agents.trainable import TrainableAgent
from pr2l.core.config import Seed
from pr2l.core.errors import UserError
from pr2l.core.messages import Message, image_part, text_part
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.encoders.common.cache import uncached
from pr2l.policies.base import Tensors
from pr2l.policies.common.policy import Choice, Policy
from pr2l.policies.common.state import below
from pr2l.rollout.vec_text import NO_TOKEN, TextCodec, padded_ids, prompt_texts
from pr2l.training.runs import Run
from pr2l.vlms.base import VLM
from pr2l.vlms.lora import Lora

SEEDS = 2**31  # number of seeds of sampling


class Defaults(base.Defaults):
    """Options of a policy that writes its actions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lora: Lora = Field(default_factory=Lora)
    temperature: PositiveFloat = 1.0  # of sampling in training; DigiRL's
    batch_size: PositiveInt = 8  # rows of a pass with gradients, which bounds the memory; results do not depend on it
    start: Path | None = None  # run folder of a `text_policy`, whose LoRA weights the training starts from; null = none
    last_action: bool = True  # read the last action after the prompt, as DigiRL's policy does; its values do not
    prompt_bytes: PositiveInt = 512  # largest number of bytes of a prompt, which observations have room for

    @field_validator("lora")
    @classmethod
    def without_dropout(cls, lora: Lora) -> Lora:
        if lora.dropout:
            raise ValueError("dropout must be 0: log-probabilities are those with which actions are sampled")
        return lora


class TextPolicy(Policy):
    """Policy whose parameters are the LoRA weights of a VLM.

    Args:
        agent: Agent with a LoRA adapter.
        options: Options of the policy.
    """

    def __init__(self, agent: TrainableAgent, options: Defaults) -> None:
        super().__init__()
        self.agent, self.options = agent, options  # an agent is no module, so the VLM's own weights are no parameters
        for name, weight in agent.weights().items():
            self.register_parameter(name.replace(".", "/"), weight)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.agent.vlm.model.device
        return device

    def log_prob(self, observations: Tensors, actions: torch.Tensor) -> torch.Tensor:
        """Compute the log-probabilities of actions, float32 [B]; see `Policy.log_prob`.

        With gradients, the passes of `options.batch_size` rows are repeated in the backward pass instead of keeping
        their activations.

        Args:
            observations: frame uint8 [B, H, W, 3] and prompt uint8 [B, P].
            actions: int64 [B, R], token ids.
        """
        size = self.options.batch_size
        columns = observations["frame"], observations["prompt"], actions
        parts = zip(*(column.split(size) for column in columns), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([self._log_prob(*part) for part in parts])
        return torch.cat([checkpoint(self._log_prob, *part, use_reentrant=False) for part in parts])

    def _log_prob(self, frames: torch.Tensor, prompts: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        responses = [Response("", tuple(ids[ids != NO_TOKEN].tolist())) for ids in actions]
        return self.agent.log_prob(conversations(frames, prompts), responses)

    def choose(self, observations: Tensors, *, greedy: bool) -> Choice:
        """Write an action for each observation; see `Policy.choose`. The log-probabilities are not computed.

        Args:
            observations: As in `log_prob`.
            greedy: Write the most probable next token each time; otherwise sample with `options.temperature`.
        """
        temperature = 0.0 if greedy else self.options.temperature
        return Choice(self._sample(observations, 1, temperature)[0])

    def sample(self, observations: Tensors, count: int, temperature: float = 1.0) -> torch.Tensor:
        return self._sample(observations, count, temperature)

    @torch.no_grad()
    def _sample(self, observations: Tensors, count: int, temperature: float) -> torch.Tensor:
        """Return token ids, int64 [count, B, R]."""
        talks = conversations(observations["frame"], observations["prompt"])
        # One seed per row: equal screens of several environments get different samples.
        seeds = torch.randint(SEEDS, (len(talks),)).tolist() if temperature else 0
        rows = self.agent.sample(talks, count, temperature, seeds)
        ids = [response.token_ids for row in rows for response in row]
        actions = torch.from_numpy(padded_ids(ids, self.options.max_new_tokens))
        return actions.reshape(len(talks), count, -1).transpose(0, 1).to(self.device)


def conversations(frames: torch.Tensor, prompts: torch.Tensor) -> list[list[Message]]:
    """Return conversations of one user message each, the frame and the prompt.

    Args:
        frames: uint8 [B, H, W, 3].
        prompts: uint8 [B, P].
    """
    rows = zip(frames.cpu().numpy(), prompt_texts(prompts.cpu().numpy()), strict=True)
    return [[{"role": "user", "content": [image_part(frame), text_part(text)]}] for frame, text in rows]


def codec(encoder: Encoder, options: Defaults) -> TextCodec:
    """Return the conversion between the texts of a run and the arrays of its learner.

    Args:
        encoder: Encoder of a prompted VLM.
        options: Options of the policy.

    Raises:
        UserError: The encoder does not suit.
    """
    return TextCodec(encoder, options.prompt_bytes, options.max_new_tokens, last_action=options.last_action)


def create(encoder: Encoder, options: Defaults, seed: Seed) -> TextPolicy:
    """Create a policy on the VLM of an encoder, which stays frozen: the adapter is in a second model on its weights.

    Args:
        encoder: Encoder of a prompted VLM, for which `codec` raises no error.
        options: Options of the policy.
        seed: Seed of the adapter's initial weights.

    Raises:
        UserError: The VLM cannot be trained.
    """
    inner: Any = uncached(encoder)
    source: EncoderSource = inner.source
    if source.vlm_options.generation == "none":  # the encoder's VLM may lack its upper layers
        source = replace(source, vlm_options=source.vlm_options.model_copy(update={"generation": "greedy"}))
    vlm = source.load_vlm()
    share_weights(vlm, inner.vlm)
    trainable = TrainableDefaults(max_new_tokens=options.max_new_tokens, lora=options.lora, seed=seed)
    policy = TextPolicy(TrainableAgent(vlm, trainable), options)
    if options.start is not None:
        load_weights(policy, options.start)
    return policy


def load_weights(policy: TextPolicy, run: Path) -> None:
    """Load the LoRA weights from the newest checkpoint of a run.

    Args:
        policy: Policy with an adapter of the same options.
        run: Run folder.

    Raises:
        UserError: There is no such run, or its adapter differs in a name or a shape.
    """
    weights = below(Run.load(run).latest().below("model"), "policy")
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the LoRA weights of text_policy.start={run} do not fit: {str(error).splitlines()[1].strip()} Use that "
            "run's vlm and text_policy.lora"
        ) from error


def share_weights(vlm: VLM, other: VLM) -> None:
    """Make a VLM use the weights of another one with the same model, so that both take the memory of one.

    Args:
        vlm: VLM whose weights are replaced by equal ones.
        other: VLM whose weights it gets; upper layers that it lacks stay.
    """
    modules: dict[str, nn.Module] = dict(other.model.named_modules())
    for name, module in vlm.model.named_modules():
        for key, _ in [*module.named_parameters(recurse=False)]:
            if name in modules and (shared := getattr(modules[name], key, None)) is not None:
                setattr(module, key, shared)
