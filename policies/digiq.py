"""Digi-Q (Bai et al. 2025): values of actions on frozen features, and a policy that imitates the best of N actions.

    Q_i(s, a) <- r + gamma (1 - d) V'_i(s')    V_i(s) <- Q'_i(s, a~)    i = 1, 2; ' = target, a moving average

    policy: -mean of w log pi(a*|s), by default with a* the best of N candidates

The features of the state are a network's over the tokens. `action_features` chooses those of an action:

    heads         its factors, and the token of the touched cell (common/action_encoder.py); a policy that is cloned
                  from the data proposes the candidates
    text, drawn   states of the frozen VLM about the frame and the action, as in paper and code; pr2l computes them
                  once for the recorded action and N - 1 candidates of each step, and they come with the batch

Differences from the released code:

    - it proposes candidates with the policy that collected the data, at temperature 1.2;
    - its targets start from other random weights, here from a copy of the critic, as ArCHer has it;
    - its advantage takes the larger one of two critics; here the smaller one, unless reduction=max.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from gymnasium import spaces
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.utils import get_device, polyak_update, set_random_seed
from torch import nn
from torch.nn.functional import layer_norm
from typing_extensions import Self

from .base import BatchSource, LearnsFrom, Tensors, Transitions, UserError, Values
from .common.action_encoder import ActionEncoder
from .common.factored_policy import FactoredOptions, FactoredPolicy
from .common.loop import Loop, Update
from .common.options import Fraction, Number, PositiveNumber, Sizes
from .common.policy import Policy, PolicyLearner
from .common.random_state import random_tensors, random_values, restore_random
from .common.state import copies
from .losses.advantages import exponential_weights, hard_weights
from .networks.base import TokenNetwork

__all__ = ["Candidates", "Critic", "Defaults", "DigiQLearner", "Learner", "bellman_losses", "create", "extraction"]


class Candidates(NamedTuple):
    """Actions of B states.

    Args:
        actions: int64 [B, factors], or [N, B, factors] for N actions of each state.
        features: Their features by the VLM, [B, D] or [N, B, D]; None = the critic encodes the actions itself.
    """

    actions: torch.Tensor
    features: torch.Tensor | None = None

    def select(self, numbers: torch.Tensor) -> Candidates:
        """Return one action of each state.

        Args:
            numbers: int64 [B], indices of N actions.
        """
        rows = torch.arange(len(numbers), device=numbers.device)
        return Candidates(self.actions[numbers, rows], None if self.features is None else self.features[numbers, rows])


class BellmanLosses(NamedTuple):
    """Losses of action values and state values, each a sum over two heads of the mean squared error."""

    action_values: torch.Tensor
    values: torch.Tensor


def bellman_losses(
    critic: Critic, target: Critic, batch: Transitions, taken: Candidates, backup: Candidates
) -> BellmanLosses:
    """Compute Digi-Q's losses, with a target of its own for each head (code).

        Q_i(s, a) <- r + discount V'_i(s')        V_i(s) <- Q'_i(s, a~)

    Args:
        critic: Critic to train.
        target: Target of the critic.
        batch: B transitions; `discounts` is gamma, and 0 after the task ended the episode.
        taken: a, the actions of the batch.
        backup: a~, one action of each state; those of the batch evaluate the policy that collected the data.
    """
    with torch.no_grad():
        next_values = target.values(target.features(batch.next_observations))
        value_targets = target.action_values(target.features(batch.observations), backup, batch.observations)
    action_value_targets = batch.rewards[:, None] + batch.discounts[:, None] * next_values
    features = critic.features(batch.observations)
    action_values = critic.action_values(features, taken, batch.observations)
    return BellmanLosses(
        (action_values - action_value_targets).square().mean(dim=0).sum(),
        (critic.values(features) - value_targets).square().mean(dim=0).sum(),
    )


def best_of(candidates: Candidates, advantages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the action with the largest advantage of each state, int64 [B, factors], and that advantage, [B].

    Args:
        candidates: N actions of each state; of equal advantages the first action is taken.
        advantages: float32 [N, B].
    """
    largest, best = advantages.max(dim=0)
    return candidates.select(best).actions, largest


class Extraction(NamedTuple):
    """Actions that a policy imitates, int64 [B, factors], and their weights, float32 [B]."""

    actions: torch.Tensor
    weights: torch.Tensor


@torch.no_grad()
def extraction(
    critic: Critic,
    policy: Policy,
    observations: Tensors,
    taken: Candidates,
    candidates: Candidates | None,
    options: Defaults,
) -> Extraction:
    """Choose what the policy imitates.

    The names are those of the released code, which weights the best candidate in all four, with A clamped to 0..1.

        best-of-n   the best of N candidates, if its advantage exceeds a threshold
        awr         the batch's action, weighted by min(exp(A / temperature), max_weight)
        pg          an action of the policy, weighted by its advantage; the code uses five times the advantage
        sft         the batch's action

    Args:
        critic: Critic.
        policy: Policy, for pg.
        observations: Observations of B rows.
        taken: The actions of the batch.
        candidates: N actions of each state, for best-of-n.
        options: Options of the algorithm.
    """
    if options.extraction == "sft":
        return Extraction(taken.actions, torch.ones(len(taken.actions), device=taken.actions.device))
    if options.extraction == "best-of-n" and candidates is not None:
        advantages = critic.advantages(candidates, observations, options.reduction)
        best, largest = best_of(candidates, advantages)
        return Extraction(best, hard_weights(largest, options.threshold))
    if options.extraction == "pg":
        taken = Candidates(policy.sample(observations, 1)[0])
    advantages = critic.advantages(taken, observations, options.reduction)
    if options.extraction == "awr":
        return Extraction(taken.actions, exponential_weights(advantages, options.temperature, options.max_weight))
    return Extraction(taken.actions, advantages)


class DigiQLearner(PolicyLearner):
    """Learner of Digi-Q from transitions.

    Args:
        policy: Policy to train.
        critic: Critic to train.
        behaviour: Policy to clone from the data, which proposes actions; None = the options need none.
        options: Options of the algorithm.
    """

    learns_from: ClassVar[LearnsFrom] = "transitions"
    options: Defaults

    def __init__(self, policy: Policy, critic: Critic, behaviour: FactoredPolicy | None, options: Defaults) -> None:
        self.options, self.critic, self.behaviour = options, critic, behaviour
        self.target = deepcopy(critic).requires_grad_(False)
        self.updates = 0  # gradient steps so far
        trained: dict[str, nn.Module] = {"policy": policy, "critic": critic}
        if behaviour is not None:
            trained["behaviour"] = behaviour
        parameters = [parameter for module in trained.values() for parameter in module.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
        self.trained = trained
        modules = {**trained, "target": self.target}
        super().__init__(policy, Loop(modules, optimizer, self.update, self.rate, options.threads))

    def update(self, source: BatchSource[Transitions]) -> Update:
        """Make one gradient step on a batch of transitions.

        Args:
            source: Transitions.

        Returns:
            The number of transitions, and the metrics: losses; weight, the mean weight of the imitated actions; epoch.
        """
        batch = on_device(source.next_batch(self.options.batch_size), self.device)
        recorded = self.recorded_candidates(batch)
        taken = self.taken(batch, recorded)
        losses = bellman_losses(self.critic, self.target, batch, taken, self.backup(batch, taken, recorded))
        policy_loss = behaviour_loss = weight = torch.zeros((), device=self.device)
        if self.behaviour is not None:
            behaviour_loss = -self.behaviour.log_prob(batch.observations, taken.actions).mean()
        if self.updates >= self.options.critic_updates:
            policy_loss, weight = self.policy_loss(batch.observations, taken, recorded)
        self.step(losses.action_values + losses.values + behaviour_loss + policy_loss)
        metrics = {
            "train/action_value_loss": losses.action_values.item(),
            "train/value_loss": losses.values.item(),
            "train/behaviour_loss": behaviour_loss.item(),
            "train/policy_loss": policy_loss.item(),
            "train/weight": weight.item(),
            "train/epoch": source.epoch,
        }
        return Update(len(batch), metrics)

    def recorded_candidates(self, batch: Transitions) -> Candidates | None:
        """Return the candidates of each state that came with a batch, the taken action first; None = none did.

        Args:
            batch: Transitions.
        """
        if batch.proposed_actions is None or batch.action_features is None:
            return None
        rows, count = batch.action_features.shape[:2]
        actions = torch.as_tensor(batch.proposed_actions, device=self.device).long().view(rows, count, -1)
        return Candidates(actions.transpose(0, 1), batch.action_features.transpose(0, 1))

    def taken(self, batch: Transitions, recorded: Candidates | None) -> Candidates:
        """Return the actions of a batch.

        Args:
            batch: Transitions.
            recorded: The candidates that came with them.
        """
        if recorded is not None:
            return recorded.select(torch.zeros(len(batch), dtype=torch.int64, device=self.device))
        assert isinstance(self.policy, FactoredPolicy)
        return Candidates(self.policy.as_factors(batch.actions))

    def policy_loss(
        self, observations: Tensors, taken: Candidates, recorded: Candidates | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the loss -mean(w log pi(a*|s)) of the policy, and the mean of the weights w.

        Args:
            observations: Observations of B rows.
            taken: The actions of the batch.
            recorded: The candidates that came with the batch.
        """
        candidates = recorded
        if self.options.extraction == "best-of-n" and self.behaviour is not None:
            with torch.no_grad():
                proposed = self.behaviour.sample(observations, self.options.n - 1, self.options.proposal_temperature)
            candidates = Candidates(torch.cat([taken.actions[None], proposed]))
        chosen = extraction(self.critic, self.policy, observations, taken, candidates, self.options)
        rows = chosen.weights != 0  # the policy reads no others
        if not rows.any():
            return chosen.weights.sum(), chosen.weights.mean()
        log_probabilities = self.policy.log_prob(
            {key: values[rows] for key, values in observations.items()}, chosen.actions[rows]
        )
        return -(chosen.weights[rows] * log_probabilities).sum() / len(rows), chosen.weights.mean()

    def backup(self, batch: Transitions, taken: Candidates, recorded: Candidates | None) -> Candidates:
        """Return the actions a~ that the state values take.

        Args:
            batch: Transitions.
            taken: Their actions.
            recorded: The candidates that came with them; backup=behaviour takes a random one, as the code does.
        """
        if self.options.backup == "data":
            return taken
        if recorded is not None:
            numbers = torch.randint(len(recorded.actions), (len(batch),))
            return recorded.select(numbers.to(self.device))
        policy = self.behaviour if self.options.backup == "behaviour" else self.policy
        assert policy is not None
        with torch.no_grad():
            return Candidates(policy.sample(batch.observations, 1)[0])

    def step(self, loss: torch.Tensor) -> None:
        """Make a gradient step, and move the target towards the critic.

        Args:
            loss: Sum of the losses of all modules, which share no weights.
        """
        self.loop.optimizer.zero_grad()
        loss.backward()
        for module in self.trained.values():
            nn.utils.clip_grad_norm_(module.parameters(), self.options.max_grad_norm)
        self.loop.optimizer.step()
        polyak_update(self.critic.parameters(), self.target.parameters(), self.options.tau)
        self.updates += 1

    def state_dict(self) -> tuple[Tensors, Values]:
        tensors, values = super().state_dict()
        return {**tensors, **copies(random_tensors())}, {
            **values,
            "updates": self.updates,
            "random": random_values(),
        }

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        """Restore the training state; see `Learner.load_state_dict`.

        This restores the process-wide random generators, so the caller must not draw random numbers between this call
        and `learn`.

        Args:
            tensors: Tensors from `state_dict`.
            values: JSON values from the same call.
        """
        super().load_state_dict(tensors, values)
        self.updates = values["updates"]
        restore_random(tensors, values["random"])


Learner = DigiQLearner


class Critic(nn.Module):
    """Two action values and two state values on shared features.

    Args:
        network: Features extractor over token observations.
        actions: Encoder of actions; None = actions come with features.
        feature_size: D, width of these features.
        options: Options of the algorithm.
    """

    def __init__(
        self, network: TokenNetwork, actions: ActionEncoder | None, feature_size: int, options: Defaults
    ) -> None:
        super().__init__()
        self.network, self.actions = network, actions
        width, sizes = network.features_dim, list(options.critic_sizes)
        inputs = width + (feature_size if actions is None else actions.width)
        self.action_value_heads = nn.ModuleList(nn.Sequential(*create_mlp(inputs, 1, sizes)) for _ in range(2))
        self.value_heads = nn.ModuleList(nn.Sequential(*create_mlp(width, 1, sizes)) for _ in range(2))

    def features(self, observations: Tensors) -> torch.Tensor:
        """Return the features [B, F] of observations.

        Args:
            observations: Tensors [B, ...].
        """
        features: torch.Tensor = self.network(observations)
        return features

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """Return two values of each state, [B, 2].

        Args:
            features: [B, F].
        """
        return torch.cat([head(features) for head in self.value_heads], dim=-1)

    def action_values(self, features: torch.Tensor, candidates: Candidates, observations: Tensors) -> torch.Tensor:
        """Return two values of each action, [B, 2] or [N, B, 2].

        Args:
            features: [B, F].
            candidates: One action of each state, or N.
            observations: Tensors [B, ...] of the same states.
        """
        encoded = self.encoded(candidates, observations)
        inputs = torch.cat([features.expand(*encoded.shape[:-1], -1), encoded], dim=-1)
        return torch.cat([head(inputs) for head in self.action_value_heads], dim=-1)

    def encoded(self, candidates: Candidates, observations: Tensors) -> torch.Tensor:
        """Return actions as vectors [B, W] or [N, B, W].

        Features of the VLM are normalised, because states of some VLMs are in the thousands.

        Args:
            candidates: One action of each state, or N.
            observations: Tensors [B, ...] of the same states.
        """
        if self.actions is not None:
            encoded: torch.Tensor = self.actions(candidates.actions, observations["tokens"], observations["mask"])
            return encoded
        assert candidates.features is not None
        features = candidates.features.float()
        return layer_norm(features, features.shape[-1:])

    def advantages(
        self, candidates: Candidates, observations: Tensors, reduction: Literal["min", "max"]
    ) -> torch.Tensor:
        """Return the advantages A = Q - V, each reduced over its two heads, [B] or [N, B].

        Args:
            candidates: One action of each state, or N.
            observations: Tensors [B, ...].
            reduction: min: the smaller value, as in ArCHer; max: the larger one, as in the code of Digi-Q.
        """
        features = self.features(observations)
        reduce = torch.amin if reduction == "min" else torch.amax
        action_values = reduce(self.action_values(features, candidates, observations), dim=-1)
        return action_values - reduce(self.values(features), dim=-1)


def on_device(batch: Transitions, device: torch.device) -> Transitions:
    """Return a batch with the tensors that this algorithm reads on a device.

    Args:
        batch: Transitions.
        device: Device of the networks.
    """
    moved = {name: getattr(batch, name).to(device) for name in ("rewards", "discounts")}
    for name in ("observations", "next_observations"):
        moved[name] = {key: values.to(device) for key, values in getattr(batch, name).items()}
    if batch.action_features is not None:
        moved["action_features"] = batch.action_features.to(device)
    return replace(batch, **moved)


def create(
    observation_space: spaces.Dict,
    action_space: spaces.Space[Any],
    num_envs: int,
    network: type[BaseFeaturesExtractor],
    network_options: BaseModel,
    options: Defaults,
    *,
    seed: int,
    policy: Policy | None = None,
) -> DigiQLearner:
    """Create a learner; see `Algorithm.create` for the arguments.

    Args:
        observation_space: Dict of tokens [T, D], mask [T] and perhaps proprio [P]; and action_features [N, D] if
            `options.action_features` is text or drawn.
        action_space: Discrete or MultiDiscrete, from 0.
        num_envs: Not used.
        network: Class that turns an observation into features; policies and critic have one each.
        network_options: Its options.
        options: Options of Digi-Q.
        seed: Seed of all random generators, and so of the first weights.
        policy: Policy to train; None = new heads on the network.

    Raises:
        UserError: The action space is of another kind, `factors_of_type` or `parents` do not fit it, or there
            are no action features.
    """
    set_random_seed(seed)
    if policy is not None:
        return with_policy(policy, observation_space, network, network_options, options)
    make: Any = network  # each Network takes the Defaults of its file
    device, networks = get_device(options.device), [make(observation_space, network_options) for _ in range(3)]
    heads = FactoredPolicy(networks[0], action_space, options)
    encoder = None
    if options.action_features == "heads":
        encoder = ActionEncoder(heads.sizes, heads.uses, networks[1].token_size, options.action_size, options)
    critic = Critic(networks[1], encoder, feature_size(observation_space, options), options)
    behaviour = FactoredPolicy(networks[2], action_space, options) if options.needs_behaviour else None
    return DigiQLearner(heads.to(device), critic.to(device), behaviour and behaviour.to(device), options)


def with_policy(
    policy: Policy, observation_space: spaces.Dict, network: Any, network_options: BaseModel, options: Defaults
) -> DigiQLearner:
    """Return a learner of a policy without heads.

    Args:
        policy: Policy to train.
        observation_space: As in `create`, as the other arguments.
        network: Class of the critic's network.
        network_options: Its options.
        options: Options of Digi-Q.

    Raises:
        UserError: The options are for heads.
    """
    if options.action_features == "heads":
        raise UserError(
            "algorithm_options.action_features=heads describes an action by the choices of heads, but the policy has "
            "none; use action_features=text or drawn"
        )
    critic = Critic(
        network(observation_space, network_options), None, feature_size(observation_space, options), options
    )
    return DigiQLearner(policy, critic.to(policy.device), None, options)


def feature_size(observation_space: spaces.Dict, options: Defaults) -> int:
    """Return D, the width of the features of actions that come with a batch; 0 = none do.

    Args:
        observation_space: As in `create`.
        options: Options of the algorithm.

    Raises:
        UserError: The options need features, and the space has none.
    """
    if options.action_features == "heads":
        return 0
    features = observation_space.spaces.get("action_features")
    if features is None or features.shape is None:
        raise UserError(
            f"algorithm_options.action_features={options.action_features} needs features of actions by a VLM; use an "
            "encoder with a VLM, such as prompted, or action_features=heads"
        )
    return features.shape[-1]


class Defaults(FactoredOptions):
    """Options of Digi-Q."""

    # heads = the action's choices and the token of the touched cell; text = the VLM reads the action in a question;
    # drawn = the VLM sees it on the frame; with {action} in action_question also, it does both, as in the code
    action_features: Literal["heads", "text", "drawn"] = "heads"
    # the VLM's question about an action, with {action} for its text and the slots of the context, such as {goal};
    # None = the question that `pr2l pretrain pretrain/screen_changes` trains
    action_question: str | None = None
    action_tokens: Literal["generated", "prompt"] = "generated"  # tokens whose mean state is the feature; from the code

    batch_size: PositiveInt = 128  # transitions per update; 32 x 4 accumulated in the code
    gamma: Fraction = 0.95  # discount factor per step; from the code
    tau: Fraction = 0.1  # fraction by which the target follows the critic after each update; code: once per epoch
    backup: Literal["data", "behaviour", "policy"] = "data"  # action of V's target: the data's, or a sample of a policy
    reduction: Literal["min", "max"] = "min"  # of the two heads in the advantage; max in the code
    extraction: Literal["best-of-n", "awr", "pg", "sft"] = "best-of-n"  # what the policy imitates
    n: Annotated[int, Field(ge=2)] = 16  # actions that best-of-n compares, with the data's action; from the code
    proposal_temperature: PositiveNumber = 1.2  # of the policy that proposes candidates; from the code
    threshold: Number = 0.05  # advantage that best-of-n must exceed; 1 / H of the time limit, as in the code
    temperature: PositiveNumber = 0.01  # temperature of awr; from the code
    max_weight: PositiveNumber = 100.0  # largest weight of awr; the code has no limit
    action_size: PositiveInt = 64  # width of the embedding of each factor, and of the touched token
    critic_sizes: Sizes = (256, 256)  # hidden units per layer of the values; three layers of 3840 in the code
    critic_updates: NonNegativeInt = 0  # updates that train the values only, before the policy learns too
    max_grad_norm: PositiveNumber = 1.0  # maximum norm of the gradient of each module; 0.01 in the code

    @property
    def needs_behaviour(self) -> bool:
        """Whether a policy is cloned from the data."""
        return self.action_features == "heads" and (self.extraction == "best-of-n" or self.backup == "behaviour")

    @model_validator(mode="after")
    def new_actions_have_no_features(self) -> Self:
        if self.action_features != "heads" and (self.extraction == "pg" or self.backup == "policy"):
            raise ValueError(
                f"extraction=pg and backup=policy value new actions, but action_features={self.action_features} are "
                "those of recorded candidates; use action_features=heads, or best-of-n with backup=data or behaviour"
            )
        return self
