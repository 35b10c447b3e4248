"""Reinforcement learning on the hidden states of a frozen vision-language model (VLM) that is given a prompt.

    vlm = pr2l.load_vlm("tiny")                              a VLM
    hidden = pr2l.embed(vlm, image, "where is the key ?")    its hidden states for an image and a prompt
    venv = pr2l.wrap(env, "where is the key ?")              your environment, with these states as observations
    run = pr2l.train("doom/fetch/prompted")                  a run of one of pr2l's configs
    agent = pr2l.load_run(run)                               its trained policy: agent.act(observation, context)

`import pr2l` also registers the environments with Gymnasium: gymnasium.make("pr2l/doom-fetch-v0"). It does not import
torch; names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pr2l.rollout import gymnasium_ids

if TYPE_CHECKING:
    from pr2l.api import Agent, embed, evaluate, load_run, load_vlm, policy_kwargs, train, wrap
    from pr2l.core.config import RunConfig, load_config
    from pr2l.core.errors import UserError
    from pr2l.core.images import read_image
    from pr2l.core.types import Hidden, Tokens

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Hidden",
    "RunConfig",
    "Tokens",
    "UserError",
    "embed",
    "evaluate",
    "load_config",
    "load_run",
    "load_vlm",
    "policy_kwargs",
    "read_image",
    "train",
    "wrap",
]

MODULES = {
    "Hidden": "pr2l.core.types",
    "RunConfig": "pr2l.core.config",
    "Tokens": "pr2l.core.types",
    "UserError": "pr2l.core.errors",
    "load_config": "pr2l.core.config",
    "read_image": "pr2l.core.images",
}  # of the names that are not in pr2l.api


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pr2l' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(MODULES.get(name, "pr2l.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


gymnasium_ids.register()
