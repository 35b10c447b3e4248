"""NaN and infinity are no values of options: they are refused when the config is read."""

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from pr2l.core import registry
from pr2l.core.config import load_config, parse_options
from pr2l.core.errors import UserError
from pr2l.core.options import VLM_OPTIONS

KINDS = ("environments", "encoders", "algorithms", "networks")
OTHERS = (
    (VLM_OPTIONS, "Defaults"),
    ("pr2l.environments.isolation.isolated", "Timeouts"),
    ("pr2l.agents.trainable", "Defaults"),
    ("pr2l.agents.text_policy", "Defaults"),
    ("pr2l.pretraining.from_scratch", "TrainingOptions"),
    ("pr2l.pretraining.finetune", "FinetuneConfig"),
    ("pr2l.data.changes", "EpisodeSource"),
    ("pr2l.pretraining.examples", "QuestionMix"),
)
PLUGINS = [(kind, name) for kind in KINDS for name in registry.names(kind)]
ONLY_BOUNDED = '''
"""An algorithm whose options have no bounds."""
from pydantic import BaseModel
class Defaults(BaseModel):
    rate: float = 0.1
    rates: tuple[float, ...] = ()
'''


def holds_floats(annotation: Any) -> bool:
    return annotation is float or any(map(holds_floats, get_args(annotation)))


def float_options(model: type[BaseModel]) -> Iterator[tuple[str, bool]]:
    """Yield the names of the options with floats, and whether the option is a tuple."""
    for key, field in model.model_fields.items():
        if holds_floats(field.annotation):
            yield key, "tuple" in str(field.annotation)


def accepted(model: type[BaseModel]) -> list[str]:
    """Return the options that accept a value that is not finite, or refuse it for another reason."""
    accepted_values = []
    for key, is_tuple in float_options(model):
        for number in (math.nan, math.inf, -math.inf):
            try:
                model.model_validate({key: (number,) if is_tuple else number})
            except ValidationError as error:
                own = [problem for problem in error.errors() if problem["loc"][0] == key]
                if any(problem["type"] in ("finite_number", "greater_than_equal", "greater_than") for problem in own):
                    continue
            accepted_values.append(f"{key} = {number}")
    return accepted_values


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_no_option_of_a_plugin_accepts_nan_or_infinity(kind: str, name: str) -> None:
    assert accepted(registry.load(kind, name).Defaults) == []


@pytest.mark.parametrize(("module", "name"), OTHERS)
def test_no_other_option_accepts_nan_or_infinity(module: str, name: str) -> None:
    model = getattr(import_module(module), name)
    assert list(float_options(model)) or name == "Defaults"
    assert accepted(model) == []


@pytest.mark.parametrize(
    "override",
    [
        "algorithm_options.clip_range=.nan",
        "algorithm_options.ent_coef=.inf",
        "vlm_options.temperature=.inf",
        "environment_options.approach_reward=.nan",
        "timeouts.step=.inf",
    ],
)
def test_config_with_such_a_value_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=rf"{override.partition('=')[0].partition('.')[2]} = (nan|inf): .* finite"):
        load_config("doom/fetch/prompted", [override])


def test_options_of_a_plugin_without_bounds_are_checked_too(write_plugin) -> None:
    write_plugin("algorithms", "unbounded", ONLY_BOUNDED)
    model = registry.load("algorithms", "unbounded").Defaults
    assert parse_options(model, {"rate": 0.5}, "options").rate == 0.5
    for values in ({"rate": math.nan}, {"rates": [1.0, math.inf]}):
        with pytest.raises(UserError, match=r"^options: rates? = .*: Input should be a finite number\.$"):
            parse_options(model, values, "options")
