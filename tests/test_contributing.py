"""The example files of CONTRIBUTING.md, installed as plug-ins of another package, load and run together."""

import numpy as np
import pytest
import tiny_parts
import torch
from api_server import running
from transformers import AutoModelForImageTextToText, CLIPImageProcessorPil, VipLlavaConfig

from pr2l.agents.api import load_api
from pr2l.agents.scoring import score
from pr2l.agents.usage import Usage
from pr2l.core import prompt, registry
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.encoders.base import EncoderSource
from pr2l.training.collect import collect
from pr2l.training.train import train
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm


def test_page_has_one_example_of_every_kind_of_plugin(examples) -> None:
    assert sorted(kind for kind, _ in examples) == sorted(registry.KINDS)
    for kind, name in examples:
        assert name in registry.names(kind)
        assert registry.load(kind, name)


def test_example_config_is_valid(examples) -> None:
    config = load_config("doors/choose/columns", ["seed=3"])
    assert (config.seed, config.encoder_options, config.environment_options) == (3, {"strips": 2}, {"size": 32})
    assert config.algorithm_options["learning_rate"] == 3e-3


def test_oracle_solves_the_example_environment(examples) -> None:
    """A policy that always goes left succeeds in about half of the episodes."""
    doors = registry.load("environments", "doors")
    env = doors.make("choose", doors.Defaults())
    successes = {"oracle": 0, "left": 0}
    for policy, act in (("oracle", doors.oracle("choose")), ("left", lambda env: 0)):
        for seed in range(100):
            env.reset(seed=seed)
            successes[policy] += env.step(act(env))[4]["success"]
    assert successes["oracle"] == 100
    assert 30 < successes["left"] < 70


def test_example_encoder_returns_the_mean_colour_of_each_door(examples) -> None:
    doors, columns = registry.load("environments", "doors"), registry.load("encoders", "columns")
    task = doors.TASKS["choose"]
    variant = prompt.load("doors/choose/where")
    assert prompt.check(variant, task.contexts)[0] == "where is the red door ?"
    source = EncoderSource("tiny", None, variant, list(task.contexts), (32, 32, 3), doors.kinds("choose"))
    encoder = columns.create(source, columns.Defaults())
    observation, info = doors.make("choose", doors.Defaults(), labels=True).reset(seed=0)
    tokens = encoder.encode(observation["frame"][None], [info["context"]])
    expected = np.array([[doors.COLOURS[label["name"]] for label in info["labels"]]]) / 255
    assert tokens.values.tolist() == expected.tolist()
    assert tokens.mask.all() and tokens.values.shape == (1, encoder.tokens, encoder.width)


@pytest.mark.slow
def test_example_experiment_learns_the_task(examples, tmp_path) -> None:
    run = train(load_config("doors/choose/columns"), root=tmp_path)
    episodes = collect("doors", "choose", tmp_path / "episodes", policy=str(run), episodes=40, seed=1000)
    assert np.mean([episode.rewards[0] for episode in episodes]) > 0.95  # chance is 0.5
    with pytest.raises(UserError, match="was trained on doors choose, not on doom fetch"):
        collect("doom", "fetch", tmp_path / "other", policy=str(run))


def test_example_algorithm_trains_and_resumes(examples, tmp_path) -> None:
    overrides = ["algorithm=a2c", "algorithm_options={}", "evaluation_episodes=2"]
    run = train(load_config("doors/choose/columns", [*overrides, "steps=200"]), root=tmp_path)
    train(load_config(run / "config.yaml", ["steps=400"]), resume=run)
    steps = [int(line.split(",")[0]) for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == list(range(20, 401, 20))  # n_steps=5 in each of 4 environments


def test_example_evaluator_agrees_with_the_example_environment(examples, tmp_path) -> None:
    collect("doors", "choose", tmp_path / "episodes", policy="random", episodes=40)
    files = {"out": tmp_path / "result.json", "cache": tmp_path / "answers.jsonl"}
    result = score(tmp_path / "episodes", "door_colour", instruction="{target}", **files)
    assert (result.accuracy, result.abstentions) == ((40, 40), (0, 40)) and 5 < result.recall.among < 35
    assert score(tmp_path / "episodes", "door_colour", instruction="the {target} one", **files).abstentions == (40, 40)


def test_example_api_answers(examples) -> None:
    question = {"role": "user", "content": [{"type": "image", "image": np.zeros((2, 2, 3), np.uint8)}]}
    with running() as server:
        answer = {"message": {"role": "assistant", "content": "left"}, "prompt_eval_count": 26, "eval_count": 2}
        server.responses = [(503, "loading"), (200, answer), (404, "no such model")]
        agent = load_api("ollama", "m", {"base_url": server.url, "first_wait": 0.01})
        assert agent.generate([[question]], temperature=0.5) == [["left"]]
        assert agent.usage == Usage(1, 26, 2)
        (path, _, body), *_ = server.requests
        assert path == "/api/chat" and body["options"]["temperature"] == 0.5 and len(body["messages"][0]["images"]) == 1
        with pytest.raises(UserError, match="status 404: no such model"):
            agent.generate([[question]])


@pytest.fixture
def vipllava_folder(tmp_path):
    """A ViP-LLaVA checkpoint with random weights and 2 x 2 image tokens."""
    tokenizer = tiny_parts.tokenizer(["<image>"])
    vision = {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, "num_hidden_layers": 2}
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_key_value_heads": 2}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = VipLlavaConfig(
        vision_config=vision | small,
        text_config=text | small | {"head_dim": 8},
        vision_feature_layer=[-1, -2],
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    model = AutoModelForImageTextToText.from_config(config)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    tiny_parts.save(tmp_path / "vipllava", model, tokenizer, processor)
    return tmp_path / "vipllava"


@torch.no_grad()
def test_states_of_example_family_equal_those_of_transformers(examples, vipllava_folder) -> None:
    vlm = load_vlm(str(vipllava_folder), Defaults(layers=(0, -1), generation="none"))
    assert type(vlm).__name__ == "VipLlava"
    frame = tiny_parts.frames(1, 16, 16)
    hidden = vlm.hidden(frame, ["is it near ?"])
    model = AutoModelForImageTextToText.from_pretrained(vipllava_folder)
    pixels = CLIPImageProcessorPil.from_pretrained(vipllava_folder)(frame[0], return_tensors="pt")
    ids = vlm.tokenizer("<image><image><image><image>\nis it near ?", return_tensors="pt")
    states = model(**ids, **pixels, output_hidden_states=True).hidden_states
    expected = torch.stack([states[0], states[-1]], dim=1)
    torch.testing.assert_close(hidden.states, expected, rtol=0, atol=1e-5)
    assert hidden.spans["image"] == slice(0, 4) and hidden.mask.all()
