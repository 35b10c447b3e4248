"""Creation of an agent by the name of its API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pr2l.agents.api.base import APIAgent
from pr2l.core import registry
from pr2l.core.config import parse_options


def load_api(name: str, model: str, options: Mapping[str, Any] | None = None) -> APIAgent:
    """Create an agent whose model runs behind an API. Its first request needs the key and the package of the API.

    Args:
        name: A name from `pr2l list apis`.
        model: The API's name of the model.
        options: Values for the API's Defaults. None = {}.

    Raises:
        UserError: There is no such API, or an option is wrong.
    """
    module = registry.load("apis", name)
    values = parse_options(module.Defaults, options or {}, f"options of {name!r}")
    agent: APIAgent = module.create(model, values)
    return agent
