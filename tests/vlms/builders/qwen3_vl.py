from tiny_parts import Case, chat_template, conversation, llama, save, tokenizer, without_video
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SPECIAL = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>"]
TEMPLATE = chat_template(
    "<|vision_start|><|image_pad|><|vision_end|>",
    user="<|im_start|>user\n",
    end="<|im_end|>\n<|im_start|>assistant\n",
    video="<|vision_start|><|video_pad|><|vision_end|>",
)


def build(folder):
    words = tokenizer(SPECIAL, eos="<|im_end|>", chat_template=TEMPLATE)
    config = Qwen3VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "out_hidden_size": 16,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0],
        },
        text_config=llama(
            words,
            model_type="qwen3_vl_text",
            rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
        ),
        **{
            f"{name}_token_id": words.convert_tokens_to_ids(token)
            for name, token in zip(("vision_start", "vision_end", "image", "video"), SPECIAL, strict=False)
        },
    )
    pixels = Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        size={"shortest_edge": 8 * 8, "longest_edge": 128 * 128},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    save(folder, Qwen3VLForConditionalGeneration(config), words, pixels)


def inputs(folder, frame, text, order):
    words = AutoTokenizer.from_pretrained(folder)
    processor = without_video(Qwen3VLProcessor)(
        Qwen2VLImageProcessorPil.from_pretrained(folder), words, chat_template=words.chat_template
    )
    return conversation(processor, frame, text, order)


CASES = [Case("qwen3_vl", "qwen3_vl", build, inputs, size=32, image_tokens=16, image_size=32)]
