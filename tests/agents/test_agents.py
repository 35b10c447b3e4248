"""Agents against the unmodified Hugging Face models, on small random-weight checkpoints.

Tolerance of log-probabilities: float32, 1e-4 (they are sums over tokens, of order 10).
"""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_vlms import CASE, folder, shared_processors, unmodified  # noqa: F401
from small_vlms import load as load_shared
from tiny_parts import frames, llama, save
from transformers import Idefics3Config, Idefics3ForConditionalGeneration

import pr2l.agents
from pr2l.agents.base import Agent, Response, VLMAgent
from pr2l.agents.prompted import Defaults as PromptedDefaults
from pr2l.agents.prompted import PromptedAgent
from pr2l.agents.trainable import Defaults, TrainableAgent
from pr2l.core.errors import UserError
from pr2l.core.messages import split_images
from pr2l.vlms import lora
from pr2l.vlms.base import Defaults as VLMDefaults
from pr2l.vlms.loading import load_vlm

pytestmark = pytest.mark.usefixtures("shared_processors")

SEVERAL_IMAGES = [CASE[name] for name in ("idefics3", "qwen2_5_vl", "gemma3", "llava")]
ONE_IMAGE = [CASE[name] for name in ("florence2", "paligemma1", "instructblip-t5")]
TRAINED = [CASE[name] for name in ("idefics3", "qwen2_5_vl", "florence2")]
WIDE = Defaults(max_new_tokens=6, lora=lora.Lora(r=4, alpha=8))

every_case = pytest.mark.parametrize("case", [*SEVERAL_IMAGES, *ONE_IMAGE], ids=lambda case: case.name)
trained_cases = pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)


def text(words):
    return {"type": "text", "text": words}


def conversations(case):
    """Three conversations of different lengths, where the family can with several images and turns."""
    images = [{"type": "image", "image": frame} for frame in frames(4, case.size, case.size)]
    near, left, where = text("is it near ?"), text("is it left ?"), text("where is the medikit ?")
    if case not in SEVERAL_IMAGES:
        contents = zip(images[:3], (near, where, near), strict=True)
        return [[{"role": "user", "content": list(content)}] for content in contents]
    two_turns = [
        {"role": "user", "content": [text("what do you see ?"), images[1]]},
        {"role": "assistant", "content": [text("a wall")]},
        {"role": "user", "content": [images[2], left]},
    ]
    one, other = ([{"role": "user", "content": content}] for content in ([images[0], near], [images[3], where]))
    return [one, two_turns, other]


RESPONSES = ["yes", "left of you , near", "a wall and a clip"]


def vlm(case, **options):
    """Return a VLM that the test may change."""
    return load_vlm(str(folder(case)), VLMDefaults(image_size=case.image_size, device="cpu", **options))


def frozen(case, max_new_tokens=6):
    return PromptedAgent(load_shared(case, device="cpu"), PromptedDefaults(max_new_tokens=max_new_tokens))


def trainable(case, options=WIDE):
    return TrainableAgent(vlm(case), options)


def unmodified_inputs(case, row):
    """The processor's inputs for one conversation."""
    talk, pictures = split_images(conversations(case)[row])
    if case in SEVERAL_IMAGES:
        return case.inputs(folder(case), pictures, talk, "")
    return case.inputs(folder(case), pictures[0], talk[0]["content"][1]["text"], "image_first")


@torch.no_grad()
def by_hand(case, row, ids):
    """The unmodified model's log-softmax of one row, gathered at the response's tokens."""
    model, inputs, response = unmodified(case), unmodified_inputs(case, row), torch.tensor([ids])
    if case.encoder_decoder:
        logits = model(**inputs, labels=response).logits
    else:
        behind = {"input_ids": response, "attention_mask": torch.ones_like(response)}
        types = torch.full_like(response, case.answer_types)
        behind |= {"token_type_ids": types, "mm_token_type_ids": types}
        inputs |= {key: torch.cat([inputs[key], more], dim=1) for key, more in behind.items() if key in inputs}
        logits = model(**inputs).logits[:, -len(ids) - 1 : -1]
    return torch.log_softmax(logits.float(), dim=-1)[0].gather(1, response[0][:, None])[:, 0]


def token_ids(agent, response):
    words = agent.vlm.tokenizer
    return [*words(response, add_special_tokens=False)["input_ids"], words.eos_token_id]


@every_case
def test_log_probabilities_are_those_of_the_unmodified_model(case):
    agent = frozen(case)
    total = agent.log_prob(conversations(case), RESPONSES)
    values, mask = agent.token_log_probs(conversations(case), RESPONSES)
    assert total.shape == (3,)
    for row, response in enumerate(RESPONSES):
        expected = by_hand(case, row, token_ids(agent, response))
        torch.testing.assert_close(values[row, mask[row]], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(total[row], expected.sum(), rtol=0, atol=1e-4)
        assert not values[row, ~mask[row]].any()


@every_case
def test_padding_and_other_rows_do_not_change_log_probabilities(case):
    agent, talks = frozen(case), conversations(case)
    together = agent.log_prob(talks, RESPONSES)
    alone = [agent.log_prob(talks[row : row + 1], RESPONSES[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)
    drawn = agent.sample(talks, n=2, temperature=2.0, seed=3)
    assert [agent.sample(talks[row:], n=2, temperature=2.0, seed=3)[0] for row in range(3)] == drawn


@every_case
@torch.no_grad()
def test_greedy_responses_are_those_of_generate(case):
    agent = frozen(case)
    for row, (only,) in enumerate(agent.sample(conversations(case))):
        inputs = unmodified_inputs(case, row)
        ids = unmodified(case).generate(**inputs, do_sample=False, max_new_tokens=6)
        expected = ids[0, 1 if case.encoder_decoder else inputs["input_ids"].shape[1] :].tolist()
        assert list(only.token_ids) == expected
        assert only.text == agent.vlm.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert agent.generate(conversations(case), n=3) == [
        [response.text] * 3 for (response,) in agent.sample(conversations(case))
    ]


@every_case
def test_sampling_is_reproducible_and_depends_on_the_seed(case):
    agent, talks = frozen(case), conversations(case)
    first, again, other = (agent.generate(talks, 4, 3.0, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [len(row) for row in first] == [4, 4, 4] and len(set(first[0])) > 1
    assert [row[:2] for row in first] == agent.generate(talks, 2, 3.0, 0)


@pytest.mark.parametrize("name", ["idefics3", "florence2"])
def test_responses_are_sampled_with_their_probabilities(name):
    """Responses of one token at a high temperature: 4000 draws against exp(log_prob)."""
    case, temperature, count = CASE[name], 1.5, 4000
    agent = frozen(case, max_new_tokens=1)
    talk = conversations(case)[:1]
    ids = [response.token_ids[0] for response in agent.sample(talk, count, temperature)[0]]
    size = len(agent.vlm.tokenizer)
    tokens = [token for token in range(size) if token != agent.vlm.image_token_id]
    probabilities = torch.zeros(size)
    responses = [Response("", (token,)) for token in tokens]
    rows = (talk * len(tokens), responses, temperature)
    probabilities[tokens] = agent.log_prob(*rows).exp()
    image_token = 1 - float(probabilities.sum())
    assert 0 < image_token < 0.05
    probabilities[agent.vlm.image_token_id] = image_token
    shares = torch.bincount(torch.tensor(ids), minlength=size) / count
    deviation = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((shares - probabilities).abs() <= 5 * deviation + 1e-9).all()


def test_log_probability_of_a_sample_uses_its_own_tokens():
    """A text may be tokenised in other ways than it was generated, and a cut response has no end."""
    case = CASE["idefics3"]
    agent, talk = frozen(case), conversations(case)[:1]
    for response in agent.sample(talk, n=5, temperature=2.0)[0]:
        expected = by_hand(case, 0, response.token_ids).sum()
        torch.testing.assert_close(agent.log_prob(talk, [response])[0], expected, rtol=0, atol=1e-4)


@every_case
def test_log_probabilities_of_a_frozen_vlm_have_no_gradients(case):
    agent = frozen(case)
    assert not any(weight.requires_grad for weight in agent.vlm.model.parameters())
    assert not agent.log_prob(conversations(case), RESPONSES).requires_grad
    assert not agent.token_log_probs(conversations(case), RESPONSES).values.requires_grad


@trained_cases
def test_gradients_reach_the_lora_weights_and_nothing_else(case):
    agent = trainable(case)
    before = copy.deepcopy(dict(agent.vlm.model.named_parameters()))
    optimizer = torch.optim.Adam(agent.parameters(), lr=0.05)
    values = []
    for _ in range(5):
        value = agent.log_prob(conversations(case), RESPONSES)
        optimizer.zero_grad()
        (-value.sum()).backward()
        optimizer.step()
        values.append(float(value.sum()))
    assert values[-1] > values[0]
    for name, weight in agent.vlm.model.named_parameters():
        assert ("lora_" in name) == weight.requires_grad == (weight.grad is not None)
        assert ("lora_" in name) or torch.equal(weight, before[name])
    assert all(weight.grad.any() for name, weight in agent.vlm.model.named_parameters() if "lora_B" in name)


@trained_cases
def test_new_adapter_and_reference_equal_the_model_without_adapter(case):
    agent, plain = trainable(case), frozen(case)
    talks = conversations(case)
    expected = plain.log_prob(talks, RESPONSES)
    torch.testing.assert_close(agent.log_prob(talks, RESPONSES), expected, rtol=0, atol=1e-5)
    disturb(agent)
    assert (agent.log_prob(talks, RESPONSES) - expected).abs().max() > 1e-2
    with agent.reference():
        torch.testing.assert_close(agent.log_prob(talks, RESPONSES), expected, rtol=0, atol=1e-5)
    assert agent.log_prob(talks, RESPONSES).requires_grad


@torch.no_grad()
def disturb(agent, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for weight in agent.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)


@trained_cases
def test_saved_adapter_gives_the_same_agent(case, tmp_path):
    agent = trainable(case)
    disturb(agent)
    talks = conversations(case)
    expected = agent.log_prob(talks, RESPONSES)
    agent.save(tmp_path / "adapter")
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == [lora.CONFIG_FILE, lora.WEIGHTS_FILE]
    read = TrainableAgent(vlm(case), WIDE, tmp_path / "adapter")
    assert torch.equal(read.log_prob(talks, RESPONSES), expected)
    assert read.generate(talks, 2, 2.0) == agent.generate(talks, 2, 2.0)
    assert [weight.requires_grad for weight in read.parameters()] == [True] * len(agent.parameters())
    new = trainable(case)
    new.load_state_dict(agent.state_dict())
    assert torch.equal(new.log_prob(talks, RESPONSES), expected)


def test_dropout_is_for_training_alone():
    case = CASE["idefics3"]
    agent = trainable(case, Defaults(max_new_tokens=4, lora=lora.Lora(dropout=0.5)))
    disturb(agent)
    arguments = conversations(case), RESPONSES
    evaluated = agent.log_prob(*arguments)
    responses = agent.generate(arguments[0], n=2, temperature=2.0)
    agent.train()
    assert not torch.equal(agent.log_prob(*arguments), evaluated)
    assert agent.generate(arguments[0], n=2, temperature=2.0) == responses
    assert agent.adapted.training
    agent.train(False)
    assert torch.equal(agent.log_prob(*arguments), evaluated)


@pytest.fixture
def tied(tmp_path):
    """A checkpoint whose lm_head is the input embedding."""
    words = vlm(CASE["idefics3"]).tokenizer
    config = Idefics3Config.from_pretrained(folder(CASE["idefics3"]))
    values = config.to_dict() | {"text_config": llama(words, tie_word_embeddings=True), "tie_word_embeddings": True}
    model = Idefics3ForConditionalGeneration(Idefics3Config(**values))
    save(tmp_path / "tied", model, words, vlm(CASE["idefics3"]).image_processor)
    return tmp_path / "tied"


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapter_on_tied_weights_is_refused(tied, target):
    model = load_vlm(str(tied), VLMDefaults(device="cpu"))
    assert model.model.lm_head.weight is model.model.get_input_embeddings().weight
    with pytest.raises(UserError, match=f"'{target}' shares its weights.*Leave '{target}' out"):
        TrainableAgent(model, Defaults(lora=lora.Lora(target_modules=(target, "q_proj"))))
    untied = TrainableAgent(vlm(CASE["idefics3"]), Defaults(lora=lora.Lora(target_modules=("lm_head",))))
    assert len(untied.parameters()) == 2


def test_all_linear_layers_of_a_tied_model_can_learn(tied):
    agent = TrainableAgent(load_vlm(str(tied), VLMDefaults(device="cpu")), WIDE)
    assert not any("lm_head" in name for name in agent.state_dict())


def test_messages_without_their_images_are_refused():
    agent = frozen(CASE["idefics3"])
    without = [split_images(messages)[0] for messages in conversations(CASE["idefics3"])]
    place = r"messages\[0\]\[0\].content\[0\]: the image part has no image"
    with pytest.raises(UserError, match=place):
        agent.generate(without)
    with pytest.raises(UserError, match=place):
        agent.log_prob(without, RESPONSES)
    with pytest.raises(UserError, match=r"messages\[0\]: expected a list of at least one message"):
        agent.generate(conversations(CASE["idefics3"])[0])


def test_images_of_a_conversation_may_differ_in_size():
    agent = frozen(CASE["idefics3"])
    images = [frames(1, height, 40)[0] for height in (20, 60)]
    parts = [{"type": "image", "image": image} for image in images]
    fitted = [{"type": "image", "image": agent.vlm.fit(image[None])[0]} for image in images]
    ours, theirs = (
        agent.log_prob([[{"role": "user", "content": [*content, text("which is near ?")]}]], ["the left"])
        for content in (parts, fitted)
    )
    assert torch.equal(ours, theirs)


def test_invalid_agents_and_arguments_are_refused(tmp_path):
    case = CASE["idefics3"]
    with pytest.raises(UserError, match="generation=greedy"):
        PromptedAgent(vlm(case, generation="none", layers=(1,)))
    with pytest.raises(UserError, match="int8"):
        TrainableAgent(vlm(case, dtype="int8"))
    with pytest.raises(UserError, match="adapter_model.safetensors"):
        TrainableAgent(vlm(case), WIDE, tmp_path)
    agent = trainable(case)
    agent.save(tmp_path)
    with pytest.raises(UserError, match="does not belong to a Florence2"):
        TrainableAgent(vlm(CASE["florence2"]), WIDE, tmp_path)
    with pytest.raises(UserError, match="another adapter"):
        agent.load_state_dict(trainable(case, Defaults(lora=lora.Lora(r=2))).state_dict())
    (tmp_path / lora.WEIGHTS_FILE).write_bytes((tmp_path / lora.WEIGHTS_FILE).read_bytes()[:100])
    with pytest.raises(UserError, match="not a complete file"):
        TrainableAgent(vlm(case), WIDE, tmp_path)
    for wrong in ({"n": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(UserError, match="n must be at least 1"):
            agent.generate(conversations(case), **wrong)
    with pytest.raises(UserError, match="an image token"):
        agent.log_prob(conversations(case)[:1], ["an <image>"])
    with pytest.raises(UserError, match="temperature above 0"):
        agent.log_prob(conversations(case), RESPONSES, temperature=0.0)
    with pytest.raises(ValueError, match="2 responses for 3 conversations"):
        agent.log_prob(conversations(case), RESPONSES[:2])


def test_both_agents_implement_the_interface():
    case = CASE["florence2"]
    for agent in (frozen(case), trainable(case)):
        assert isinstance(agent, Agent) and isinstance(agent, VLMAgent)


def test_package_imports_its_names_when_they_are_used():
    code = "import sys, json, pr2l.agents; print(json.dumps(sorted({'torch', 'transformers'} & {*sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(loaded) == []
    assert [getattr(pr2l.agents, name).__name__ for name in pr2l.agents.__all__] == pr2l.agents.__all__


def test_example_of_the_documentation_runs(tmp_path, monkeypatch):
    """On tiny, the VLM that ships with pr2l; one step makes the answer more probable."""
    page = Path(__file__).parents[2] / "docs" / "agents.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(example, values)  # noqa: S102
    assert values["responses"] == [["no", "no"]]
    agents = (values["agent"], values["again"])
    after, again = (agent.log_prob(values["messages"], ["yes"]) for agent in agents)
    assert after > values["reference"] and torch.equal(after, again)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_message_with_a_video_equals_the_vlm(name):
    """A video part holds its frames; responses and log-probabilities are those of the VLM for the frames."""
    case = CASE[name]
    clip = frames(4, case.size, case.size)
    message = {"role": "user", "content": [{"type": "video", "video": clip, "fps": 5}, text("is it near ?")]}
    place = {"role": "user", "content": [{"type": "video", "frames": 4, "fps": 5.0}, text("is it near ?")]}
    agent = frozen(case)
    [response] = agent.generate([[message]])
    assert response == load_shared(case, device="cpu").answer([list(clip)], [[place]], 6)
    back = [{**message, "content": [{"type": "video", "video": clip[::-1], "fps": 5}, text("is it near ?")]}]
    forth, turned = agent.log_prob([[message], back], ["yes", "yes"]).tolist()
    assert abs(forth - turned) > 1e-4
