from tiny_parts import Case, save, small_opt, small_t5, tokenizer, vit
from transformers import AutoTokenizer, Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

QUERIES = 5


def builder(text, **ends):
    def build(folder):
        words = tokenizer(["<image>"], **ends)
        config = Blip2Config(
            vision_config=vit(),
            qformer_config=vit(vocab_size=64, encoder_hidden_size=16, max_position_embeddings=64),
            text_config=text(words),
            num_query_tokens=QUERIES,
            image_token_index=words.convert_tokens_to_ids("<image>"),
        )
        pixels = BlipImageProcessorPil(size={"height": 32, "width": 32})
        save(folder, Blip2ForConditionalGeneration(config), words, pixels)

    return build


def inputs(folder, frame, text, order):
    words, pixels = AutoTokenizer.from_pretrained(folder), BlipImageProcessorPil.from_pretrained(folder)
    return dict(Blip2Processor(pixels, words, QUERIES)(images=frame, text=text, return_tensors="pt"))


OPT = builder(small_opt, bos="</s>", front="</s>")
T5 = builder(small_t5, back="</s>")
CASES = [
    Case("blip2-opt", "blip-2", OPT, inputs, size=32, image_tokens=QUERIES),
    Case(
        "blip2-t5",
        "blip-2",
        T5,
        inputs,
        size=32,
        image_tokens=QUERIES,
        image_sees_prompt=True,
        encoder_decoder=True,
    ),
]
