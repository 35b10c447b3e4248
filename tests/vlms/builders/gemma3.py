from tiny_parts import Case, chat_template, conversation, llama, save, tokenizer, vit
from transformers import AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

NAMES = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
TEMPLATE = chat_template("<start_of_image>", start="<bos>", user="<start_of_turn>user\n", end="<start_of_turn>model\n")


def build(folder):
    words = tokenizer(
        [*NAMES.values(), "<start_of_turn>"],
        bos="<bos>",
        front="<bos>",
        chat_template=TEMPLATE,
        extra_special_tokens=NAMES,
    )
    config = Gemma3Config(
        vision_config=vit(model_type="siglip_vision_model", patch_size=4, vision_use_head=False),
        text_config=llama(
            words,
            model_type="gemma3_text",
            query_pre_attn_scalar=8,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
        ),
        mm_tokens_per_image=16,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    pixels = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    save(folder, Gemma3ForConditionalGeneration(config), words, pixels)


def inputs(folder, frame, text, order):
    words, pixels = AutoTokenizer.from_pretrained(folder), Gemma3ImageProcessorPil.from_pretrained(folder)
    processor = Gemma3Processor(pixels, words, chat_template=words.chat_template, image_seq_length=16)
    return conversation(processor, frame, text, order, add_special_tokens=False)


CASES = [Case("gemma3", "gemma3", build, inputs, size=32, image_tokens=16)]
