from tiny_parts import Case, save, tokenizer
from transformers import (
    AutoTokenizer,
    BartConfig,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
)

SIZE = 64


def build(folder):
    words = tokenizer(["<image>"], bos="<s>", front="<s>", back="</s>", extra_special_tokens={"image_token": "<image>"})
    text = BartConfig(
        vocab_size=len(words),
        d_model=16,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=128,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.eos_token_id,
        forced_eos_token_id=None,
    )
    vision = dict(
        embed_dim=(8, 8, 16, 16),
        depths=(1, 1, 1, 1),
        num_heads=(2, 2, 2, 2),
        num_groups=(2, 2, 2, 2),
        patch_stride=(4, 2, 2, 1),
        window_size=4,
        projection_dim=16,
    )
    config = Florence2Config(
        vision_config=vision,
        text_config=text.to_dict(),
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    pixels = CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, do_center_crop=False, image_seq_length=IMAGE_TOKENS
    )
    save(folder, Florence2ForConditionalGeneration(config), words, pixels)


def inputs(folder, frame, text, order):
    pixels, words = CLIPImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    processor = Florence2Processor(pixels, words)
    return processor(images=frame, text=text, return_tensors="pt")


IMAGE_TOKENS = 1 + (SIZE // 16) ** 2  # the mean over the picture and a 4 x 4 grid
CASES = [
    Case(
        "florence2",
        "florence2",
        build,
        inputs,
        SIZE,
        IMAGE_TOKENS,
        image_sees_prompt=True,
        encoder_decoder=True,
    )
]
