"""Whole runs of a VLM that writes its actions, on recorded episodes and its own, in the world of two screens."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from test_text_policy import write_checkpoint
from toy_runs import assert_same_run, copied_before_checkpoint, metrics, weights

from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.data.recorded import batch_source, recording
from pr2l.policies.base import UserError as PolicyError
from pr2l.rollout import build
from pr2l.training.check import rollout_memory
from pr2l.training.collect import collect
from pr2l.training.evaluate import trained
from pr2l.training.runs import Run
from pr2l.training.train import train

WORLD = Path(__file__).parents[1].joinpath("text_world.py").read_text()
PROMPT = {"text": "do {goal}", "slots": ["goal"], "why": "a test", "source": "written for this test"}
RUN = {
    "why": "a test",
    "environment": "text_world",
    "task": "two",
    "vlm_options": {"device": "cpu", "generation": "none", "layers": [-1]},
    "encoder": "prompted",
    "encoder_options": {"segments": ["image"], "max_prompt_tokens": 8},
    "algorithm": "digirl_online",
    "algorithm_options": {
        "learning_rate": 0.01, "trajectories": 4, "n_steps": 4, "updates": 2, "offline_updates": 2,
        "critic_sizes": [8], "device": "cpu",
    },
    "network": "mlp",
    "network_options": {"hidden": [16]},
    "text_policy": {"max_new_tokens": 40, "prompt_bytes": 64, "lora": {"r": 4, "alpha": 8}},
    "num_envs": 2,
    "steps": 32,
    "checkpoint_every": 8,
    "evaluation_episodes": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder for a checkpoint and a data set, which the first test writes."""
    folder = tmp_path_factory.mktemp("text_runs")
    write_checkpoint(folder / "vlm")
    return folder


@pytest.fixture
def config(write_plugin, tmp_path, made):
    """config(key=value, ...) -> config of a run on 12 episodes of the oracle, half of whose actions are random."""
    write_plugin("environments", "text_world", WORLD)
    if not (made / "episodes").exists():
        collect("text_world", "two", made / "episodes", policy="oracle", episodes=12, noise=0.5)
    (tmp_path / "prompt.yaml").write_text(yaml.safe_dump(PROMPT))
    paths = {"vlm": str(made / "vlm"), "data": str(made / "episodes"), "prompt": str(tmp_path / "prompt.yaml")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN | paths))
    return lambda *overrides: load_config(tmp_path / "run.yaml", overrides)


@pytest.mark.slow  # 7 s; tests/agents/test_text_policy.py resumes a learner
def test_resumed_run_equals_uninterrupted_run_with_the_same_seed(config, tmp_path, monkeypatch):
    """The resumed run has the files that a kill after step 24 leaves, with the latest checkpoint at step 16."""
    killed = tmp_path / "killed"
    with copied_before_checkpoint(monkeypatch, 24, killed):
        uninterrupted = train(config(), root=tmp_path / "runs")
    rows = metrics(uninterrupted)
    assert [int(row["step"]) for row in rows] == [0, 0, 8, 16, 24, 32] and rows[-1]["train/policy_loss"]
    tensors = weights(uninterrupted)[1]
    assert all("/lora_" in name for name in tensors if name.startswith("model/policy/"))
    assert weights(killed)[0] == "000000016"
    assert_same_run(train(load_config(killed / "config.yaml"), resume=killed), uninterrupted)


@pytest.mark.pictures
@pytest.mark.parametrize("algorithm", [pytest.param("filtered_bc", marks=pytest.mark.slow), "digirl"])
def test_offline_run_writes_all_files_and_its_checkpoint_acts(config, tmp_path, algorithm):
    run = train(config(f"algorithm={algorithm}", "algorithm_options={device: cpu}"), root=tmp_path / "runs")
    assert {"results.json", "metrics.csv", "curves.png", "video.mp4"} <= {path.name for path in run.iterdir()}
    assert json.loads((run / "results.json").read_text())["evaluation"]["episodes"] == 2
    _, learner, _ = trained(Run.load(run))
    saved = {name: tensor for name, tensor in weights(run)[1].items() if name.startswith("model/policy/")}
    assert all(torch.equal(saved[f"model/policy/{name}"], value) for name, value in learner.policy.state_dict().items())
    assert any(tensor.abs().sum() > 0 for name, tensor in saved.items() if "lora_B" in name)


DIGIQ = {
    "action_features": "text", "action_tokens": "prompt", "n": 3, "batch_size": 8, "critic_sizes": [8], "device": "cpu",
}  # fmt: skip


@pytest.mark.slow  # 5 s; tests/agents/test_text_policy.py trains a learner
def test_digiq_run_samples_its_candidates_once_from_the_policy_of_another_run(config, tmp_path, monkeypatch):
    first = train(config("algorithm=filtered_bc", "algorithm_options={device: cpu}"), root=tmp_path / "runs")
    words = ("algorithm=digiq", f"algorithm_options={json.dumps(DIGIQ)}", f"text_policy.start={first}")
    digiq = config(*words)
    data = recording(digiq)
    encoder = build.encoder(digiq, data.frame_shape)
    batch = batch_source(digiq, encoder, data).next_batch(5)
    assert batch.proposed_actions.shape == (5, 3, 40) and batch.action_features.shape == (5, 3, 32)
    assert torch.equal(batch.proposed_actions[:, 0], batch.actions)
    policy = build.text_policy(digiq, encoder, data.action_space)
    saved = weights(first)[1]
    assert all(torch.equal(saved[f"model/policy/{name}"], weight) for name, weight in policy.state_dict().items())
    monkeypatch.setattr(type(policy), "sample", lambda *_: pytest.fail("sampled again"))
    run = train(digiq, root=tmp_path / "runs")
    assert metrics(run)[-1]["train/policy_loss"]
    with pytest.raises(UserError, match="do not fit: .* Use that run's vlm and text_policy.lora"):
        train(config(*words, "text_policy.lora.r=2"), root=tmp_path / "runs")


def test_memory_of_the_replay_counts_frames(config):
    run_config = config()
    spaces = build.frame_spaces(run_config)
    encoder = build.encoder(run_config, spaces.frame_shape)
    space = build.learner_space(run_config, spaces.observation_space, encoder)
    assert {"tokens", "mask", "frame", "prompt"} == set(space.spaces)
    tokens = encoder.tokens * (2 * encoder.width + 1)
    expected = 2000 * (tokens + 16 * 16 * 3 + 64) / 1e6
    assert f"{expected:.3g} MB" in rollout_memory(run_config, encoder, spaces).description


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["encoder=pixels", "encoder_options={}"], "use encoder=prompted"),
        (["algorithm=bc", "algorithm_options={}"], "bc cannot train a policy that writes its actions"),
        (["algorithm=digiq", "algorithm_options={}"], "use action_features=text or drawn"),
        (["environment_options.actions=heads"], "add environment_options.actions=text"),
        (["text_policy.max_new_tokens=6"], "use a larger max_new_tokens"),
        (["text_policy.prompt_bytes=4"], "a prompt has 5 bytes, more than text_policy.prompt_bytes=4"),
        (["text_policy.lora.dropout=0.1"], "dropout must be 0"),
        (["text_policy.temprature=1"], "temperature"),
    ],
)
def test_unsuitable_configs_name_the_next_step(config, tmp_path, overrides, problem):
    data = "data=null" if "heads" in overrides[0] else "evaluation_episodes=1"
    with pytest.raises((UserError, PolicyError), match=problem):
        train(config(*overrides, data), root=tmp_path / "runs")
