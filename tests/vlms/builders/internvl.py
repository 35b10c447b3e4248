from tiny_parts import Case, chat_template, conversation, llama, save, tokenizer, vit, without_video
from transformers import AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
TEMPLATE = chat_template("<IMG_CONTEXT>\n", user="<|im_start|>user\n", end="<|im_end|>\n<|im_start|>assistant\n")


def build(folder):
    words = tokenizer(
        [*NAMES.values(), "<|im_start|>"],
        eos="<|im_end|>",
        chat_template=TEMPLATE,
        extra_special_tokens=NAMES,
    )
    config = InternVLConfig(
        vision_config=vit(model_type="internvl_vision", patch_size=4),
        text_config=llama(words, model_type="qwen2"),
        image_token_id=words.context_image_token_id,
        image_seq_length=16,
    )
    # As on the Hub: left alone, this would cut a wide frame into tiles.
    pixels = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True)
    save(folder, InternVLForConditionalGeneration(config), words, pixels)


def inputs(folder, frame, text, order):
    words, pixels = AutoTokenizer.from_pretrained(folder), GotOcr2ImageProcessorPil.from_pretrained(folder)
    processor = without_video(InternVLProcessor)(pixels, words, image_seq_length=16, chat_template=words.chat_template)
    return conversation(processor, frame, text, order, crop_to_patches=False)


CASES = [Case("internvl", "internvl", build, inputs, size=32, image_tokens=16)]
