"""Vectorized environments for learning: seeded episodes, worker processes, and the wrapper that embeds frames.

The names below are loaded on first use, because worker processes import this package without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contract import ContractCheck, ContractError, check_spaces
    from .episodes import SeededEpisodes, make_episodes
    from .vec_embed import VecEmbed, embed_env
    from .workers import Workers

__all__ = [
    "ContractCheck",
    "ContractError",
    "SeededEpisodes",
    "VecEmbed",
    "Workers",
    "check_spaces",
    "embed_env",
    "make_episodes",
]
_MODULES = {
    "contract": ("ContractCheck", "ContractError", "check_spaces"),
    "episodes": ("SeededEpisodes", "make_episodes"),
    "vec_embed": ("VecEmbed", "embed_env"),
    "workers": ("Workers",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
