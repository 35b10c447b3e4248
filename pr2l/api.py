"""The Python API of `import pr2l`.

load_vlm, embed, read_image     a VLM, and its hidden states for images and prompts
wrap, policy_kwargs             any Gymnasium environment or VecEnv, with embeddings as observations
train, evaluate, load_run       runs of pr2l's configs, and a trained run as a policy
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
from pr2l.core.frame_history import FrameHistory
from pr2l.core.images import read_image
from pr2l.core.prompt import Prompt
from pr2l.core.types import Hidden, Labels
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.policies.base import Learner
from pr2l.rollout import build
from pr2l.rollout.elements import as_element
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
        name: "tiny" (part of pr2l), a folder with a Hugging Face checkpoint, or a Hub id.
        options: VLM options, such as `generation="none"` or `new_tokens=3`; `pr2l options vlm` lists them.

    Raises:
        UserError: There is no such model, or an option is unknown or has a value that is not allowed.
    """
    return load_vlm_with(name, parse_options(Defaults, options, f"options of the VLM {name!r}"))


def embed(
    vlm: VLM, images: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]], prompts: str | Sequence[str]
) -> Hidden:
    """Compute the hidden states of a VLM for images and prompts.

    Args:
        vlm: The VLM, from `load_vlm`.
        images: One image, uint8 [H, W, 3], or B images of one size: [B, H, W, 3] or a list.
        prompts: One prompt or B prompts. One image is combined with every prompt, and one prompt with every image.

    Returns:
        Hidden states with the fields
            states    float [B, L, T, D], for the L layers in `vlm.options.layers`
            mask      bool [B, T], True for real tokens
            spans     slices of the "image", "prompt" and "generated" tokens along T
            answers   the B generated texts

    Raises:
        UserError: The images are not uint8 [H, W, 3] or differ in size, or the numbers of images and prompts differ.
    """
    frames = np.asarray(images)
    frames = frames[None] if frames.ndim == 3 else frames
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise UserError(
            f"images are {frames.dtype} of shape {list(frames.shape)}; they must be uint8 of shape [H, W, 3] or "
            "[B, H, W, 3], all of one size. `pr2l.read_image(path)` reads a file in this form"
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
    frame: str | Sequence[str] | None = None,
    proprio: str | None = None,
    context: Context | ContextOf | None = None,
    contexts: Sequence[Context] | None = None,
) -> VecEmbed:
    """Replace the frames of an environment by embeddings, for any algorithm of Stable-Baselines3.

    The VLM runs once per step of the vector environment, not in every gradient step.

    Args:
        env: A Gymnasium environment or a VecEnv. Its observation is an image, uint8 [H, W, 3], or a Dict with an image.
        prompt: The prompt's text, such as "where is the {target} ?", or the path of a YAML file; None = no prompt.
        vlm: "tiny", a folder with a Hugging Face checkpoint, or a Hub id, see `load_vlm`.
        vlm_options: VLM options; `pr2l options vlm` lists them. None = defaults.
        encoder: A name from `pr2l list encoders`.
        encoder_options: Options of the encoder; `pr2l options encoder NAME` lists them. None = defaults.
        frame: The key of the image in a Dict; several keys = the frame has these cameras' images side by side, for a
            prompt with `cameras`; None = "frame", or the only image.
        proprio: The key of a vector for the observation's `proprio`; None = "proprio" if the Dict has this key.
        context: The values of the prompt's slots: a dict for all episodes, or a function from the observation and info
            of `env` to a dict; None = `info["context"]`.
        contexts: All contexts that can occur. None = the dict `context`, or {} for a prompt without slots; otherwise
            the contexts are unknown, and the encoder needs the option `max_prompt_tokens`.

    Returns:
        A VecEnv with observations Dict(tokens float16 [T, D], mask uint8 [T]), and proprio float32 [P] if `env` has
        such a vector; use it with "MultiInputPolicy".

    Raises:
        UserError: The environment has no such image, a name or an option does not exist, or the encoder must be fitted.
    """
    all_contexts = list(contexts) if contexts is not None else None
    question = _prompt(prompt)
    if all_contexts is None and isinstance(context, Mapping):
        all_contexts = [dict(context)]
    if all_contexts is None and (question is None or not question.slots):
        all_contexts = [{}]
    space = Arrangement(env.observation_space, frame, proprio, context).observation_space()["frame"]
    height, width = (space.shape or (0, 0))[:2]
    source = EncoderSource(
        vlm=vlm,
        vlm_options=parse_options(Defaults, vlm_options or {}, "vlm_options"),
        prompt=question,
        contexts=all_contexts,
        frame_shape=(height, width, 3),
        kinds=(),
    )
    module = registry.load("encoders", encoder)
    where = f"encoder_options of {encoder!r}"
    embedder: Encoder = module.create(source, parse_options(module.Defaults, encoder_options or {}, where))
    if embedder.fit_frames:
        raise UserError("wrap cannot fit a PCA; leave out encoder_options['pca']")
    return embed_env(env, embedder, frame=frame, proprio=proprio, context=context)


def policy_kwargs(network: str = "token_transformer", **options: Any) -> dict[str, Any]:
    """Return the `policy_kwargs` of a Stable-Baselines3 policy with one of pr2l's networks as features extractor.

    Args:
        network: A name from `pr2l list networks`.
        options: Options of the network; `pr2l options network NAME` lists them.

    Raises:
        UserError: There is no such network, or an option is unknown or has a value that is not allowed.
    """
    module = registry.load("networks", network)
    defaults = parse_options(module.Defaults, options, f"options of the network {network!r}")
    return {"features_extractor_class": module.Network, "features_extractor_kwargs": {"defaults": defaults}}


def train(config: str | Path | RunConfig, overrides: Sequence[str] = (), *, root: str | Path = "runs") -> Path:
    """Train an agent and evaluate it, as `pr2l train` does.

    Args:
        config: A name from `pr2l list configs`, the path of a YAML file, or a config from `load_config`.
        overrides: Values that replace values of the config, e.g. ["seed=1", "steps=20000"].
        root: The parent folder of the new run folder.

    Returns:
        The run folder.

    Raises:
        UserError: The config is not valid, or there are overrides for a RunConfig.
    """
    if isinstance(config, RunConfig) and overrides:
        raise UserError("overrides need the name or the path of a config, not a loaded config")
    return train_run(config if isinstance(config, RunConfig) else load_config(config, overrides), root=Path(root))


def evaluate(run: str | Path, episodes: int | None = None) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run on held-out episodes, as `pr2l evaluate` does.

    Args:
        run: The run folder.
        episodes: Number of episodes; None = `evaluation_episodes` of the run's config.

    Returns:
        The content of results.json; its "evaluation" contains success rate and return.
    """
    return evaluate_run(Path(run), episodes)


def load_run(run: str | Path) -> Agent:
    """Load the newest checkpoint of a run as a policy.

    Args:
        run: The run folder.

    Raises:
        UserError: The folder is not a run folder or has no checkpoint.
    """
    source = Run.load(Path(run))
    encoder, learner, step = trained(source)
    return Agent(source.config, encoder, learner, step)


@dataclass(eq=False)
class Agent:
    """Trained policy with its encoder, from frames to actions.

    Attributes:
        config: The run's config.
        encoder: The run's encoder.
        learner: The run's learner.
        step: Number of environment steps of the training.
    """

    config: RunConfig
    encoder: Encoder
    learner: Learner
    step: int
    _memory: Any = field(default=None, init=False, repr=False)
    _history: FrameHistory = field(init=False, repr=False)
    _action_space: spaces.Space[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._action_space = build.frame_spaces(self.config).action_space
        self._history = FrameHistory(self.encoder.frame_history)

    def reset(self) -> None:
        """Start a new episode: clear the memory of a recurrent policy and the earlier frames of the prompt."""
        self._memory = None
        self._history.clear()

    @torch.no_grad()
    def act(
        self,
        observation: Mapping[str, Any] | npt.NDArray[np.uint8],
        context: Context | None = None,
        *,
        labels: Labels | None = None,
        greedy: bool | None = None,
    ) -> Any:
        """Choose an action for one observation.

        Args:
            observation: The environment's observation: Dict(frame uint8 [H, W, 3], proprio float32 [P]), or the frame
                alone if the policy was trained without `proprio`.
            context: The environment's `info["context"]`, the values of the prompt's slots; None = {}.
            labels: The environment's `info["labels"]`, only for an encoder that needs labels, such as `oracle`.
            greedy: True = the most probable action; False = an action drawn with torch's random generator; None = the
                run's `evaluation_greedy`.

        Returns:
            An action of the environment's action space.
        """
        inputs = dict(observation) if isinstance(observation, Mapping) else {"frame": observation}
        batch_labels = [list(labels or [])] if self.encoder.needs_labels else None
        frames = self._history.add(np.asarray(inputs["frame"]))
        values, mask, _ = in_half(self.encoder.encode(frames[None], [dict(context or {})], batch_labels))
        batch = {"tokens": values, "mask": mask}
        if "proprio" in inputs:
            batch["proprio"] = np.asarray(inputs["proprio"], np.float32)[None]
        greedy = self.config.evaluation_greedy if greedy is None else greedy
        choice = self.learner.act(batch, self._memory, greedy=greedy)
        self._memory = choice.memory
        return as_element(self._action_space, _first(choice.actions), "action")

    def make_env(self, split: Literal["train", "evaluation"] = "evaluation") -> gym.Env[Any, Any]:
        """Make the environment that the policy was trained in.

        Args:
            split: The split of maps and seeds; `env.reset(seed=...)` determines the episode.
        """
        module = registry.load("environments", self.config.environment)
        options, labels = self.config.options("environment"), self.encoder.needs_labels
        env: gym.Env[Any, Any] = module.make(self.config.task, options, split=split, labels=labels)
        return env


def _first(actions: Any) -> Any:
    """Return the first action of a batch; a batch of a Dict space is a dict of batches."""
    return {key: _first(batch) for key, batch in actions.items()} if isinstance(actions, Mapping) else actions[0]


def _prompt(text: str | None) -> Prompt | None:
    """Make a prompt from its text, or read it from a YAML file."""
    if text is None:
        return None
    if prompts.is_path(text):
        return prompts.load(text)
    slots = tuple(sorted(prompts.slots(text, "prompt")))
    return Prompt(name="prompt", text=text, slots=slots, why="", source="")
