"""The Python API: what `import pr2l` offers to scripts.

load_vlm, embed, read_image     a VLM, and its hidden states for images and prompts
wrap, policy_kwargs             any Gymnasium environment or VecEnv, with embeddings as observations
train, evaluate, load_run       runs of pr2l's own configs, and a trained run as a policy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core import prompt as prompts
from pr2l.core import registry
from pr2l.core.config import RunConfig, load_config, parse_options
from pr2l.core.errors import UserError
from pr2l.core.images import read_image
from pr2l.core.prompt import Prompt
from pr2l.core.types import Hidden, Labels
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.policies.base import Learner
from pr2l.rollout import build
from pr2l.rollout.actions import as_action
from pr2l.rollout.external import Arrangement, Context, ContextOf
from pr2l.rollout.vec_embed import VecEmbed, embed_env, in_half
from pr2l.training.evaluate import evaluate as evaluate_run
from pr2l.training.evaluate import trained
from pr2l.training.runs import Run
from pr2l.training.train import train as train_run
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.loading import load_vlm as load_vlm_with

Image: TypeAlias = npt.NDArray[np.uint8]

__all__ = ["Agent", "embed", "evaluate", "load_run", "load_vlm", "policy_kwargs", "read_image", "train", "wrap"]


def load_vlm(name: str = "tiny", **options: Any) -> VLM:
    """Load a frozen vision-language model (VLM).

    Args:
        name: "tiny" (comes with pr2l), a folder with a Hugging Face checkpoint, or a Hub id.
        options: VLM options, such as `generation="none"` or `new_tokens=3`; `pr2l options vlm` lists them.

    Raises:
        UserError: There is no such model, or an option does not fit.
    """
    return load_vlm_with(name, parse_options(Defaults, options, f"options of the VLM {name!r}"))


def embed(
    vlm: VLM, images: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]], prompts: str | Sequence[str]
) -> Hidden:
    """Compute the hidden states of a VLM for images and prompts.

    Args:
        vlm: The VLM, from `load_vlm`.
        images: One image, uint8 [H, W, 3], or B of them: [B, H, W, 3] or a list.
        prompts: One prompt, or B of them. One image is combined with every prompt, and one prompt with every image.

    Returns:
        states, float [B, L, T, D], for the L layers in `vlm.options.layers`; mask, bool [B, T], True for real tokens;
        spans, where "image", "prompt" and "generated" tokens are along T; and answers, the text that was generated.

    Raises:
        UserError: The images are not uint8 [H, W, 3] or differ in size, or the numbers of images and prompts differ.
    """
    frames = np.asarray(images)
    frames = frames[None] if frames.ndim == 3 else frames
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise UserError(
            f"images must be uint8 of shape [H, W, 3] or [B, H, W, 3], all of one size; these are {frames.dtype} of "
            f"shape {list(frames.shape)}. `pr2l.read_image(path)` reads a file that way"
        )
    if len(frames) != len(texts) and 1 not in (len(frames), len(texts)):
        raise UserError(
            f"there are {len(frames)} images and {len(texts)} prompts; give as many of both, or one of either"
        )
    count = max(len(frames), len(texts))
    return vlm.hidden(np.repeat(frames, count // len(frames), axis=0), texts * (count // len(texts)))


def wrap(
    env: gym.Env[Any, Any] | VecEnv,
    prompt: str | None = None,
    *,
    vlm: str = "tiny",
    vlm_options: Mapping[str, Any] | None = None,
    encoder: str = "prompted",
    encoder_options: Mapping[str, Any] | None = None,
    frame: str | None = None,
    proprio: str | None = None,
    context: Context | ContextOf | None = None,
    contexts: Sequence[Context] | None = None,
) -> VecEmbed:
    """Replace the frames of an environment by embeddings, for any algorithm of Stable-Baselines3.

    The VLM runs once per step of the vector environment, not in every gradient step.

    Args:
        env: A Gymnasium environment, or a VecEnv of several. Its observation is an image, uint8 [H, W, 3], or a Dict
            with one.
        prompt: The prompt's text, such as "where is the {target} ?", or the path of a YAML file; None = no prompt.
        vlm: As `name` of `load_vlm`.
        vlm_options: VLM options; `pr2l options vlm` lists them.
        encoder: A name from `pr2l list encoders`.
        encoder_options: Its options; `pr2l options encoder NAME` lists them.
        frame: The key of the image in a Dict; None = "frame", or the only image.
        proprio: The key of a vector that is passed on unchanged; None = "proprio" if there is one.
        context: What fills the prompt's slots: a dict for every episode, or a function of the environment's own
            observation and info that returns one; None = `info["context"]`.
        contexts: Every context that can occur. None = those that `context` gives; if these are not known in advance,
            the encoder needs the option `max_prompt_tokens`.

    Returns:
        A VecEnv with observations Dict(tokens float16 [T, D], mask uint8 [T], proprio float32 [P] if there is one);
        use it with "MultiInputPolicy".

    Raises:
        UserError: The environment has no such image, or a name or an option does not exist.
    """
    known = list(contexts) if contexts is not None else None
    asked = _prompt(prompt)
    if known is None and isinstance(context, Mapping):
        known = [dict(context)]
    if known is None and (asked is None or not asked.slots):
        known = [{}]
    space = Arrangement(env.observation_space, frame, proprio, context).observation_space()["frame"]
    height, width = (space.shape or (0, 0))[:2]
    source = EncoderSource(
        vlm=vlm,
        vlm_options=parse_options(Defaults, vlm_options or {}, "vlm_options"),
        prompt=asked,
        contexts=known,
        frame_shape=(height, width, 3),
        kinds=(),
    )
    module = registry.load("encoders", encoder)
    where = f"encoder_options of {encoder!r}"
    made: Encoder = module.create(source, parse_options(module.Defaults, encoder_options or {}, where))
    if made.fit_frames:
        raise UserError("wrap cannot fit an encoder; leave encoder_options['pca'] unset")
    return embed_env(env, made, frame=frame, proprio=proprio, context=context)


def policy_kwargs(network: str = "token_transformer", **options: Any) -> dict[str, Any]:
    """Return `policy_kwargs` for Stable-Baselines3 that select one of pr2l's networks over tokens.

    Args:
        network: A name from `pr2l list networks`.
        options: Its options; `pr2l options network NAME` lists them.
    """
    module = registry.load("networks", network)
    defaults = parse_options(module.Defaults, options, f"options of the network {network!r}")
    return {"features_extractor_class": module.Network, "features_extractor_kwargs": {"defaults": defaults}}


def train(config: str | Path | RunConfig, overrides: Sequence[str] = (), *, root: str | Path = "runs") -> Path:
    """Train an agent and evaluate it, as `pr2l train` does.

    Args:
        config: A name from `pr2l list configs`, the path of a YAML file, or what `load_config` returns.
        overrides: Values that replace the config's, e.g. ["seed=1", "steps=20000"].
        root: The folder that the new run folder is made in.

    Returns:
        The run folder.
    """
    if isinstance(config, RunConfig) and overrides:
        raise UserError("overrides need the name or the path of a config; this one is loaded already")
    return train_run(config if isinstance(config, RunConfig) else load_config(config, overrides), root=Path(root))


def evaluate(run: str | Path, episodes: int | None = None) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run on held-out episodes, as `pr2l evaluate` does.

    Args:
        run: The run folder.
        episodes: Number of episodes; None = as in the run's config.

    Returns:
        What is written to results.json; success rate and return are in its "evaluation".
    """
    return evaluate_run(Path(run), episodes)


def load_run(run: str | Path) -> Agent:
    """Load the newest checkpoint of a run as a policy.

    Args:
        run: The run folder.

    Raises:
        UserError: The folder is not a run folder, or has no checkpoint.
    """
    loaded = Run.load(Path(run))
    encoder, learner, step = trained(loaded)
    return Agent(loaded.config, encoder, learner, step)


@dataclass(eq=False)
class Agent:
    """A trained policy with its encoder: frames in, actions out.

    Attributes:
        config: The run's config.
        encoder: The run's encoder.
        learner: The run's learner.
        step: Number of environment steps that it was trained for.
    """

    config: RunConfig
    encoder: Encoder
    learner: Learner
    step: int
    _memory: Any = field(default=None, init=False, repr=False)
    _frames: list[Image] = field(default_factory=list, init=False, repr=False)
    _action_space: spaces.Space[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._action_space = build.frame_spaces(self.config).action_space

    def reset(self) -> None:
        """Start a new episode. Matters for recurrent policies and prompts of several images."""
        self._memory, self._frames = None, []

    @torch.no_grad()
    def act(
        self,
        observation: Mapping[str, Any] | npt.NDArray[np.uint8],
        context: Context | None = None,
        *,
        labels: Labels | None = None,
        greedy: bool | None = None,
    ) -> Any:
        """Choose an action.

        Args:
            observation: The environment's observation: Dict(frame uint8 [H, W, 3], proprio float32 [P]), or the frame
                alone if the policy was trained without `proprio`.
            context: The environment's `info["context"]`, which fills the prompt's slots; None = empty.
            labels: The environment's `info["labels"]`, only for an encoder that needs them, such as `oracle`.
            greedy: Take the most probable action; False = draw one from torch's generator; None = the run's
                `evaluation_greedy`.

        Returns:
            An action of the environment's action space.
        """
        parts = dict(observation) if isinstance(observation, Mapping) else {"frame": observation}
        known = [list(labels or [])] if self.encoder.needs_labels else None
        frames = self._with_history(np.asarray(parts["frame"]))
        values, mask, _ = in_half(self.encoder.encode(frames[None], [dict(context or {})], known))
        batch = {"tokens": values, "mask": mask}
        if "proprio" in parts:
            batch["proprio"] = np.asarray(parts["proprio"], np.float32)[None]
        greedy = self.config.evaluation_greedy if greedy is None else greedy
        chosen = self.learner.act(batch, self._memory, greedy=greedy)
        self._memory = chosen.memory
        return as_action(self._action_space, _first(chosen.actions))

    def _with_history(self, frame: Image) -> Image:
        """The frame, or for a prompt of K images the last K frames, [K, H, W, 3], the first one repeated at first."""
        count = self.encoder.frame_history
        if count == 1:
            return frame
        self._frames = [*self._frames, frame][-count:]
        return np.stack([self._frames[0]] * (count - len(self._frames)) + self._frames)

    def make_env(self, split: Literal["train", "evaluation"] = "evaluation") -> gym.Env[Any, Any]:
        """Make the environment that the policy was trained in.

        Args:
            split: Whose maps and seeds it has; `env.reset(seed=...)` chooses the episode.
        """
        module = registry.load("environments", self.config.environment)
        options, labels = self.config.options("environment"), self.encoder.needs_labels
        env: gym.Env[Any, Any] = module.make(self.config.task, options, split=split, labels=labels)
        return env


def _first(actions: Any) -> Any:
    """The first action of a batch; that of a Dict space is a dict of batches."""
    return {key: _first(part) for key, part in actions.items()} if isinstance(actions, Mapping) else actions[0]


def _prompt(text: str | None) -> Prompt | None:
    """A prompt from its text, or from a YAML file."""
    if text is None:
        return None
    if prompts.is_path(text):
        return prompts.load(text)
    slots = tuple(sorted(prompts.slots(text, "prompt")))
    return Prompt(name="prompt", text=text, slots=slots, why="", source="")
