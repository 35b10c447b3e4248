from types import SimpleNamespace

from tiny_parts import Case, chat_template, conversation, llama, save, tokenizer, vit, without_video
from transformers import (
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

SPECIAL = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<row_1_col_1>"]
TEMPLATE = chat_template("<image>", start="<|im_start|>", user="User:", end="<end_of_utterance>\nAssistant:")


def builder(config_class, model_class, pixels_class):
    def build(folder):
        words = tokenizer([*SPECIAL, "<|im_start|>"], eos="<end_of_utterance>", chat_template=TEMPLATE)
        config = config_class(
            vision_config=vit(patch_size=4),
            text_config=llama(words),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            pad_token_id=words.pad_token_id,
            scale_factor=2,
        )
        # As on the Hub: left alone, this would enlarge a frame and cut it into tiles.
        pixels = pixels_class(size={"longest_edge": 128}, max_image_size={"longest_edge": 32})
        save(folder, model_class(config), words, pixels)

    return build


def idefics3(folder, frame, text, order):
    words, pixels = AutoTokenizer.from_pretrained(folder), Idefics3ImageProcessorPil.from_pretrained(folder)
    processor = Idefics3Processor(pixels, words, image_seq_len=16, chat_template=words.chat_template)
    whole = {"do_image_splitting": False, "size": {"longest_edge": 32}}
    return conversation(processor, frame, text, order, **whole)


def smolvlm(folder, frame, text, order):
    words, pixels = AutoTokenizer.from_pretrained(folder), SmolVLMImageProcessorPil.from_pretrained(folder)
    no_video = SimpleNamespace(num_frames=1, fps=1)
    processor = without_video(SmolVLMProcessor)(
        pixels, words, no_video, image_seq_len=16, chat_template=words.chat_template
    )
    whole = {"do_image_splitting": False, "size": {"longest_edge": 32}}
    return conversation(processor, frame, text, order, **whole)


CASES = [
    Case(
        "idefics3",
        "idefics3",
        builder(Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil),
        idefics3,
        size=32,
        image_tokens=16,
    ),
    Case(
        "smolvlm",
        "smolvlm",
        builder(SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil),
        smolvlm,
        size=32,
        image_tokens=16,
    ),
]
