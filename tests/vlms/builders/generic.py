"""VipLLaVA: a type that no family claims."""

from tiny_parts import Case, chat_template, conversation, llama, save, tokenizer, vit
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)


def processor(folder):
    words = AutoTokenizer.from_pretrained(folder)
    return LlavaProcessor(
        CLIPImageProcessorPil.from_pretrained(folder),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )


def build(folder):
    words = tokenizer(["<image>"], bos="<s>", front="<s>", chat_template=chat_template("<image>\n"))
    config = VipLlavaConfig(
        vision_config=vit(model_type="clip_vision_model", projection_dim=16),
        text_config=llama(words),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=[-1, -2],
    )
    pixels = CLIPImageProcessorPil(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    save(folder, VipLlavaForConditionalGeneration(config), words, pixels)
    processor(folder).save_pretrained(folder)


def inputs(folder, frame, text, order):
    return conversation(processor(folder), frame, text, order)


CASES = [Case("vipllava", "vipllava", build, inputs, size=32, image_tokens=16)]
