import torch
from tiny_parts import Case, chat_template, conversation, llama, save, tokenizer, vit, without_video
from transformers import (
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

TILES = [[32, 64], [64, 32], [64, 64]]


def build(folder):
    words = tokenizer(["<image>", "<video>"], chat_template=chat_template("<image>\n", video="<video>\n"))
    config = LlavaOnevisionConfig(
        vision_config=vit(model_type="siglip_vision_model", vision_use_head=False),
        text_config=llama(words, model_type="qwen2"),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=TILES,
    )
    pixels = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=TILES)
    save(folder, LlavaOnevisionForConditionalGeneration(config), words, pixels)


def inputs(folder, frame, text, order):
    """The processor leaves the pictures of a sample whole if there are two: ask about two, keep one."""
    words = AutoTokenizer.from_pretrained(folder)
    template = words.chat_template
    if isinstance(text, str):
        template = template.replace("<image>\n", "<image><image>\n")
    processor = without_video(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil.from_pretrained(folder),
        words,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    if isinstance(text, list):
        return conversation(processor, [frame], text, order)
    two = conversation(processor, [[frame, frame]], text, order)
    ids = two["input_ids"][0].tolist()
    del ids[(first := ids.index(words.convert_tokens_to_ids("<image>"))) : first + 16 + 1]
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": two["pixel_values"][:1],
        "image_sizes": two["image_sizes"][:1],
        "batch_num_images": two["batch_num_images"],
    }


CASES = [Case("llava_onevision", "llava_onevision", build, inputs, size=32, image_tokens=16 + 1)]
