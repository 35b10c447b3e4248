"""Invalid options of algorithms and networks are refused when the config is read."""

import pytest
from gymnasium import spaces
from pydantic import ValidationError
from token_world import token_space

from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.policies import ppo
from pr2l.policies.networks import mlp

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
PLUGINS = [(kind, name) for kind in ("algorithms", "networks") for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_number_has_bounds(kind, name):
    model = registry.load(kind, name).Defaults
    for key, default in model().model_dump().items():
        if isinstance(default, bool) or not isinstance(default, (int, float, tuple, type(None))):
            continue
        for value in (-1, float("nan"), float("inf")):
            with pytest.raises(ValidationError):
                model(**{key: (value,) if isinstance(default, tuple) else value})


@pytest.mark.parametrize(
    "override",
    ["learning_rate=.nan", "learning_rate=-1", "learning_rate=1e39", "n_steps=0", "batch_size=0", "batch_size=1",
     "gamma=2", "clip_range=.nan", "n_epochs=0", "gae_lambda=1.5", "device=gpu", "head_sizes=[0]"],
)  # fmt: skip
def test_invalid_ppo_options_are_refused(override):
    with pytest.raises(UserError, match=override.split("=")[0]):
        load_config("doom/fetch/prompted", [f"algorithm_options.{override}"])


@pytest.mark.parametrize(
    ("option", "message"),
    [("width=0", "width"), ("{width: 10, heads: 4}", "of 'token_transformer': width 10 .*try width=8.$")],
)
def test_invalid_network_options_are_refused(option, message):
    override = f"network_options={option}" if "{" in option else f"network_options.{option}"
    with pytest.raises(UserError, match=message):
        load_config("doom/fetch/prompted", [override])


@pytest.mark.parametrize(("n_steps", "recurrent", "valid"), [(17, True, False), (17, False, True), (18, True, True)])
def test_recurrent_ppo_refuses_a_last_batch_of_one_row(n_steps, recurrent, valid):
    """RecurrentPPO would divide by the standard deviation of one number, which is NaN; PPO does not."""
    options = ppo.Defaults(n_steps=n_steps, batch_size=16, recurrent=recurrent, device="cpu", lstm_size=4)
    arguments = (token_space(2, 3, None), spaces.Discrete(2), 1, mlp.Network, mlp.Defaults(), options)
    if valid:
        assert ppo.create(*arguments, seed=0).num_timesteps == 0
    else:
        with pytest.raises(ValueError, match="17 rows.*single"):
            ppo.create(*arguments, seed=0)


def test_old_names_of_options_work_with_a_warning():
    with pytest.warns(FutureWarning, match="'heads' is now called 'head_sizes'"):
        config = load_config("doom/fetch/prompted", ["algorithm_options.heads=[7]"])
    assert config.algorithm_options["head_sizes"] == [7]
