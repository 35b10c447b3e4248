"""The public API `import pr2l`: the scripts of README.md, and calls with a known result."""

import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from pages import python_blocks
from processes import TIMEOUT
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv

import pr2l

ROOT = Path(__file__).parents[1]
SCRIPTS = python_blocks(ROOT / "README.md")


class GrayRoom(gym.Env):
    """Episodes of one step; the frame is gray, and the context names a target."""

    observation_space = gym.spaces.Dict(
        frame=gym.spaces.Box(0, 255, (32, 32, 3), np.uint8), proprio=gym.spaces.Box(0, 1, (2,), np.float32)
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {"context": {"target": "medikit"}}

    def step(self, action):
        return self._observation(), 1.0, True, False, {"context": {"target": "medikit"}}

    def _observation(self):
        return {"frame": np.full((32, 32, 3), 100, np.uint8), "proprio": np.zeros(2, np.float32)}


@pytest.fixture(scope="module")
def vlm():
    return pr2l.load_vlm("tiny", new_tokens=2)


def test_import_pr2l_loads_no_heavy_package_and_all_names_exist() -> None:
    code = "import sys, pr2l; print({'torch', 'transformers', 'vizdoom', 'stable_baselines3'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT).stdout
    assert output.strip() == "set()"
    for name in pr2l.__all__:
        assert getattr(pr2l, name).__doc__, name
    assert set(pr2l.__all__) <= set(dir(pr2l))
    with pytest.raises(AttributeError, match="no attribute 'lod_vlm'"):
        pr2l.lod_vlm  # noqa: B018


def test_readme_has_three_short_scripts() -> None:
    lengths = [len([line for line in script.splitlines() if line.strip()]) for script in SCRIPTS]
    assert len(lengths) == 3 and lengths[0] <= 5 and lengths[1] <= 15 and lengths[2] <= 5, lengths


def test_readme_script_embeds_an_image_with_two_prompts(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(SCRIPTS[0], names)
    assert names["hidden"].states.shape[0] == 2 and len(names["hidden"].answers) == 2


def test_readme_script_trains_sb3_ppo_in_a_custom_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(re.sub(r"learn\(.*?\)", "learn(8)", SCRIPTS[1].replace("n_steps=256", "n_steps=8, batch_size=8")), names)
    assert names["model"].num_timesteps == 8


def test_readme_script_acts_with_a_trained_run(tmp_path, monkeypatch, trained_run) -> None:
    names: dict = {}
    exec(re.sub(r'load_run\(".*?"\)', f"load_run({str(trained_run)!r})", SCRIPTS[2]), names)
    assert names["agent"].step == 16 and 0 <= names["action"] < 10


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    overrides = ["steps=16", "num_envs=2", "evaluation_episodes=1", "vlm_options.new_tokens=1"]
    overrides += ["algorithm_options.n_steps=8", "algorithm_options.batch_size=16", "network_options.width=32"]
    return pr2l.train("doom/fetch/prompted", overrides, root=tmp_path_factory.mktemp("runs"))


def test_loaded_agent_acts_deterministically_and_run_can_be_evaluated(trained_run) -> None:
    agent = pr2l.load_run(trained_run)
    episodes: list[list[int]] = []
    for _ in range(2):
        env = agent.make_env()
        observation, info = env.reset(seed=7)
        agent.reset()
        actions = []
        for _ in range(5):
            actions.append(int(agent.act(observation, info["context"], greedy=True)))
            observation, _, terminated, truncated, info = env.step(actions[-1])
        env.close()
        episodes.append(actions)
    assert episodes[0] == episodes[1]
    assert pr2l.evaluate(trained_run, episodes=1)["evaluation"]["episodes"] == 1


def test_embed_broadcasts_a_single_image_or_prompt(vlm) -> None:
    image = np.full((40, 50, 3), 90, np.uint8)
    hidden = pr2l.embed(vlm, image, ["where is the medikit ?", "where is the imp ?"])
    second = pr2l.embed(vlm, [image, image], "where is the imp ?")
    assert hidden.states.shape[:2] == (2, 2) and hidden.mask.dtype == second.mask.dtype
    np.testing.assert_allclose(hidden.states[1], second.states[0], atol=1e-4)
    assert not np.allclose(
        hidden.states[0, :, hidden.spans["image"]], hidden.states[1, :, hidden.spans["image"]], atol=1e-3
    )


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "x", "must be uint8"),
        (np.zeros((8, 8), np.uint8), "x", "must be uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), ["x"] * 3, "2 images and 3 prompts"),
    ],
)
def test_embed_rejects_wrong_dtype_shape_or_number_of_prompts(vlm, images, prompts, message) -> None:
    with pytest.raises(pr2l.UserError, match=message):
        pr2l.embed(vlm, images, prompts)


@pytest.mark.parametrize("env", [GrayRoom, lambda: DummyVecEnv([GrayRoom, GrayRoom])], ids=["env", "vec_env"])
def test_wrapped_environment_trains_with_sb3(env) -> None:
    contexts = [{"target": "medikit"}, {"target": "imp"}]
    venv = pr2l.wrap(env(), "where is the {target} ?", contexts=contexts, vlm_options={"new_tokens": 2})
    observation = venv.reset()
    assert observation["tokens"].dtype == np.float16 and observation["proprio"].shape == (venv.num_envs, 2)
    model = A2C("MultiInputPolicy", venv, policy_kwargs=pr2l.policy_kwargs("mlp"), n_steps=4)
    assert model.learn(8).num_timesteps == 8
    assert venv.contexts == [{"target": "medikit"}] * venv.num_envs


def test_misspelled_names_raise_with_a_suggestion() -> None:
    with pytest.raises(pr2l.UserError, match="Did you mean 'prompted'"):
        pr2l.wrap(GrayRoom(), "x", encoder="promted")
    with pytest.raises(pr2l.UserError, match="Did you mean 'new_tokens'"):
        pr2l.wrap(GrayRoom(), "x", vlm_options={"new_token": 2})
    with pytest.raises(pr2l.UserError, match="Did you mean 'token_transformer'"):
        pr2l.policy_kwargs("token_transfomer")
