"""Videos in conversations, compared with Hugging Face's processors, video processors and models.

The video processors of transformers need torchvision. Here they run with pr2l's functions in its place, on frames that
have the right size already.
"""

import json
from shutil import copytree

import numpy as np
import pytest
import torch
import transformers
from small_vlms import CASE, CASES, NEW_TOKENS, assert_close, folder, generated_states, stacked, unmodified, vlm
from tiny_parts import frames
from transformers import AutoTokenizer, video_processing_utils

from pr2l.core.errors import UserError
from pr2l.core.messages import count_images
from pr2l.vlms import checkpoint, torchvision_free
from pr2l.vlms.conversation import Conversation
from pr2l.vlms.family import video_families
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.token_ids import IGNORE_INDEX

QWEN = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 8 * 8, "longest_edge": 128 * 128}}
# Processor, video processor with its settings, and settings of the processor.
PROCESSORS = {
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor", QWEN, {}),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor", QWEN, {}),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        "LlavaOnevisionVideoProcessor",
        {"size": {"height": 32, "width": 32}},
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
}
video_cases = pytest.mark.parametrize("case", [CASE[name] for name in PROCESSORS], ids=lambda case: case.name)

IMAGE = {"type": "image"}


def text(content):
    return {"type": "text", "text": content}


def video(count, fps=2.0):
    return {"type": "video", "frames": count, "fps": fps}


def user(*parts):
    return {"role": "user", "content": list(parts)}


FOUR = [user(video(4), text("is it left ?"))]
LATER = [user(text("what do you see ?"), video(4), text("is it near ?"))]
ODD = [user(video(3, fps=10.0), text("is it left ?"))]
MIXED = [user(IMAGE, text("what do you see ?"), video(4, fps=0.4), IMAGE, text("is it near ?"))]
ANSWER = {"role": "assistant", "content": [text("a wall")]}
TWO_VIDEOS = [user(video(2), text("yes")), ANSWER, user(video(2), text("?"))]


def pictures(case, count, seed=0):
    return list(frames(count, case.size, case.size, seed))


def real_processor(case, monkeypatch):
    """Return the unmodified processor of a case, with its video processor."""
    name, video_name, settings, options = PROCESSORS[case.name]
    monkeypatch.setattr(video_processing_utils, "tvF", torchvision_free, raising=False)
    video_class = torchvision_free.real_class(getattr(transformers, video_name))
    pixels = checkpoint.read_image_processor(str(folder(case)))
    mean_and_std = {"image_mean": pixels.image_mean, "image_std": pixels.image_std}
    videos = video_class(**settings, **mean_and_std, do_sample_frames=False)
    words = AutoTokenizer.from_pretrained(folder(case))
    processor_class = getattr(transformers, name)

    class Processor(processor_class):
        def check_argument_for_proper_class(self, argument_name, argument):
            if argument_name != "video_processor":
                super().check_argument_for_proper_class(argument_name, argument)

    return Processor(pixels, words, videos, chat_template=words.chat_template, **options)


def real_inputs(case, images, messages, monkeypatch):
    """Return the unmodified model's inputs of a conversation, from its own processor."""
    processor, images = real_processor(case, monkeypatch), list(images)
    pictures, videos, metadata = [], [], []
    for part in (part for message in messages for part in message["content"]):
        if part["type"] == "image":
            pictures.append(images.pop(0))
        if part["type"] == "video":
            count = part["frames"]
            videos.append(np.stack([images.pop(0) for _ in range(count)]))
            metadata.append({"total_num_frames": count, "fps": part["fps"], "frames_indices": list(range(count))})
    written = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    more = {"images": [pictures]} if pictures else {}  # LLaVA-OneVision leaves two pictures of a row whole
    return dict(processor(text=written, videos=videos, video_metadata=metadata, return_tensors="pt", **more))


@torch.no_grad()
def reference(case, inputs):
    """Return the unmodified model's states of input and answer in Hidden's order, and the number of visual tokens."""
    model = unmodified(case)
    states = stacked(model(**inputs, output_hidden_states=True).hidden_states)
    ids = inputs["input_ids"][0]
    visual = (ids == model.config.image_token_id) | (ids == model.config.video_token_id)
    generated, sequences = generated_states(model, inputs)
    return torch.cat([states[:, :, visual], states[:, :, ~visual], generated], dim=2), int(visual.sum()), sequences


CONVERSATIONS = {"first": FOUR, "later": LATER, "two": TWO_VIDEOS, "odd": ODD, "mixed": MIXED}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@video_cases
def test_states_and_answers_equal_the_unmodified_model(case, messages, monkeypatch):
    images = pictures(case, count_images(messages))
    inputs = real_inputs(case, images, messages, monkeypatch)
    ours = vlm(case).inputs([images], [messages])
    assert ours["input_ids"].tolist() == inputs["input_ids"].tolist()
    torch.testing.assert_close(ours["pixel_values_videos"], inputs["pixel_values_videos"], rtol=0, atol=1e-6)
    for key in ("video_grid_thw", "image_grid_thw", "second_per_grid_ts", "mm_token_type_ids"):
        assert (key in ours) == (key in inputs), key
        if key in ours:
            assert torch.as_tensor(ours[key]).tolist() == torch.as_tensor(inputs[key]).tolist(), key
    hidden = vlm(case).hidden([images], [messages])
    theirs, count, sequence = reference(case, inputs)
    assert hidden.spans["image"].stop == count == sum(vlm(case).grids(Conversation.of(messages)))
    assert_close(hidden.states, theirs)
    answer = sequence[0, inputs["input_ids"].shape[1] :][:NEW_TOKENS].tolist()
    assert vlm(case).generate([images], [messages], NEW_TOKENS)[0] == answer


OPTIONS = [{}, {"disable": ("own_passes",)}, {"generation": "none", "layers": (0, 1)}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@video_cases
def test_rows_with_and_without_videos_equal_single_rows(case, options):
    images = pictures(case, 5)
    batch = [images[:4], images[1:], images[:1], images[:2], images[:3], images[:4]]
    one, two = ([user(visual, text("is it left ?"))] for visual in (IMAGE, video(2)))  # for Qwen-VL of the same layout
    prompts = [FOUR, FOUR, one, two, ODD, LATER]
    model = vlm(case, **options)
    batched = model.hidden(batch, prompts)
    for row, (row_images, prompt) in enumerate(zip(batch, prompts, strict=True)):
        single = model.hidden([row_images], [prompt])
        for name, span in batched.spans.items():
            mask = batched.mask[row, span]
            own = single.states[0, :, single.spans[name]][:, single.mask[0, single.spans[name]]]
            assert_close(batched.states[row, :, span][:, mask], own)
            assert not batched.states[row, :, span][:, ~mask].any()
        assert batched.answers[row] == single.answers[0]


@video_cases
def test_early_exit_and_own_passes_give_the_same_states(case):
    images = pictures(case, 4)
    plain = vlm(case, disable=("own_passes",)).hidden([images], [FOUR])
    assert_close(vlm(case).hidden([images], [FOUR]).states, plain.states)
    short, span = vlm(case, generation="none", layers=(1,)).hidden([images], [FOUR]), slice(plain.spans["prompt"].stop)
    assert_close(short.states, vlm(case, layers=(1,)).hidden([images], [FOUR]).states[:, :, span])


@video_cases
def test_order_of_the_frames_changes_the_states(case):
    images = pictures(case, 4)
    forth, back = (vlm(case).hidden([row], [FOUR]) for row in (images, images[::-1]))
    assert (forth.states - back.states).abs().max() > 0.01


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_time_between_frames_changes_the_states(name):
    case = CASE[name]
    images = pictures(case, 4)
    slow, fast = (vlm(case).hidden([images], [[user(video(4, fps), text("?"))]]) for fps in (0.5, 50.0))
    prompt = slow.spans["prompt"]
    assert slow.states.shape != fast.states.shape or (slow.states - fast.states)[:, :, prompt].abs().max() > 0.001


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("qwen2_5_vl", [16, 16, 32, 32]), ("qwen3_vl", [16, 16, 32, 32]), ("llava_onevision", [5, 9, 13, 17])],
)
def test_number_of_tokens_of_a_video(name, lengths):
    """Qwen-VL merges two frames into one grid of 16; LLaVA-OneVision takes 4 tokens a frame and one at the end."""
    model = vlm(CASE[name])
    for count, length in enumerate(lengths, start=1):
        prompt = [user(video(count), text("?"))]
        hidden = model.hidden([pictures(CASE[name], 1) * count], [prompt])
        assert hidden.spans["image"].stop == sum(model.grids(Conversation.of(prompt))) == length


@video_cases
def test_equal_frames_have_equal_features_in_a_video(case):
    """Layer 0 has the vision tower's tokens: of both pairs of frames the same, of other frames others."""
    [first, other] = pictures(case, 2)
    same, different = (
        vlm(case, layers=(0,), generation="none").hidden([row], [FOUR]).states[0, 0]
        for row in ([first] * 4, [first, first, other, other])
    )
    half = sum(vlm(case).grids(Conversation.of(FOUR))) // 2
    assert_close(same[:half], same[half : 2 * half])
    assert_close(same[:half], different[:half])
    assert (different[:half] - different[half : 2 * half]).abs().max() > 0.01


OTHERS = [case for case in CASES if case.name not in PROCESSORS]


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_other_families_refuse_videos(case):
    with pytest.raises(UserError, match="no videos. Use llava_onevision or qwen2_5_vl or qwen3_vl, or.*frames: 4"):
        vlm(case).hidden([pictures(case, 4)], [FOUR])


def test_families_that_take_videos():
    assert video_families() == sorted(PROCESSORS)


@video_cases
def test_video_token_in_a_text_is_text(case):
    model, images = vlm(case), pictures(case, 4)
    word = model.video_token
    hidden = model.hidden([images], [[user(video(4), text(f"is {word} left ?"))]])
    assert hidden.spans["image"].stop == sum(model.grids(Conversation.of(FOUR)))
    with pytest.raises(UserError, match="a video.*or a text of the conversation contains this word"):
        vlm(case, special_tokens="control").hidden([images], [[user(video(4), text(f"is {word} left ?"))]])
    assert word in model.special_tokens


@video_cases
def test_without_a_chat_template_the_parts_are_joined_by_line_breaks(case):
    model = vlm(case, chat_template=False)
    hidden = model.hidden([pictures(case, 4)], [FOUR])
    assert hidden.spans["image"].stop == sum(model.grids(Conversation.of(FOUR)))


def test_template_without_videos_is_refused():
    case = CASE["qwen2_5_vl"]
    model = vlm(case, new_tokens=1, min_new_tokens=0)
    template, model.template = model.template, model.template.replace("<|video_pad|>", "")
    try:
        with pytest.raises(UserError, match="leaves out a video '<|video_pad|>'"):
            model.hidden([pictures(case, 4)], [[user(video(4), text("is it far ?"))]])
    finally:
        model.template = template


def test_videos_of_different_lengths_in_a_prompt_are_refused_by_llava_onevision():
    case = CASE["llava_onevision"]
    with pytest.raises(UserError, match="2 and 3 frames"):
        vlm(case).hidden([pictures(case, 5)], [[user(video(2), video(3), text("?"))]])


def test_pixels_of_videos_follow_the_checkpoints_video_processor(tmp_path):
    case = CASE["qwen2_5_vl"]
    copytree(folder(case), tmp_path, dirs_exist_ok=True)
    settings = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings))
    model = load_vlm(str(tmp_path), vlm(case).options)
    images = frames(2, case.size, case.size)
    inputs = model.inputs([list(images)], [[user(video(2), text("?"))]])
    assert inputs["pixel_values_videos"].max() == images.max() / np.float32(255)
    assert torch.equal(model.pixels(images)["pixel_values"], vlm(case).pixels(images)["pixel_values"])


@video_cases
def test_answer_to_learn_from_after_a_video(case):
    """The mean loss of two rows of different length equals that of both rows alone."""
    model, images = vlm(case), pictures(case, 4)
    inputs, targets = model.training_inputs([images, images], [FOUR, LATER], ["yes", "no ?"])
    real = targets != IGNORE_INDEX
    with torch.no_grad():
        ours = torch.nn.functional.cross_entropy(model.model(**inputs).logits[real], targets[real])
        losses = []
        for row, prompt, answer in ((images, FOUR, "yes"), (images, LATER, "no ?")):
            one, target = model.training_inputs([row], [prompt], [answer])
            counted = target != IGNORE_INDEX
            losses.append(
                torch.nn.functional.cross_entropy(model.model(**one).logits[counted], target[counted], reduction="sum")
            )
    assert_close(ours, sum(losses) / real.sum())
