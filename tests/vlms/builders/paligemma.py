from tiny_parts import Case, llama, save, tokenizer, vit
from transformers import (
    AutoTokenizer,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil


def builder(**text):
    def build(folder):
        words = tokenizer(["<image>"], bos="<bos>", front="<bos>", extra_special_tokens={"image_token": "<image>"})
        config = PaliGemmaConfig(
            vision_config=vit(model_type="siglip_vision_model", vision_use_head=False),
            text_config=llama(words, **text),
            image_token_index=words.image_token_id,
            projection_dim=16,
            hidden_size=16,
        )
        pixels = SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=16)
        save(folder, PaliGemmaForConditionalGeneration(config), words, pixels)

    return build


def inputs(folder, frame, text, order):
    words, pixels = AutoTokenizer.from_pretrained(folder), SiglipImageProcessorPil.from_pretrained(folder)
    processor = PaliGemmaProcessor(pixels, words)
    values = processor(images=frame, text=f"<image>{text}", return_tensors="pt", add_special_tokens=False)
    return {name: value for name, value in values.items() if name != "labels"}


def case(name, **text):
    build = builder(**text)
    return Case(name, "paligemma", build, inputs, size=32, image_tokens=16, image_sees_prompt=True, answer_types=1)


CASES = [
    case("paligemma1", model_type="gemma"),
    case("paligemma2", model_type="gemma2", query_pre_attn_scalar=8, sliding_window=24),
]
