from tiny_parts import Case, llama, save, small_t5, tokenizer, vit
from transformers import (
    AutoTokenizer,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

QUERIES = 5


def builder(text, **ends):
    def build(folder):
        words = tokenizer(["<image>"], **ends)
        qformer_words = tokenizer(["[CLS]", "[SEP]"], front="[CLS]", back="[SEP]")
        config = InstructBlipConfig(
            vision_config=vit(),
            qformer_config=vit(vocab_size=len(qformer_words), encoder_hidden_size=16, max_position_embeddings=64),
            text_config=text(words),
            num_query_tokens=QUERIES,
            image_token_index=words.convert_tokens_to_ids("<image>"),
        )
        pixels = BlipImageProcessorPil(size={"height": 32, "width": 32})
        save(folder, InstructBlipForConditionalGeneration(config), words, pixels)
        qformer_words.save_pretrained(folder / "qformer_tokenizer")

    return build


def inputs(folder, frame, text, order):
    words, pixels = AutoTokenizer.from_pretrained(folder), BlipImageProcessorPil.from_pretrained(folder)
    qformer_words = AutoTokenizer.from_pretrained(folder, subfolder="qformer_tokenizer")
    processor = InstructBlipProcessor(pixels, words, qformer_words, QUERIES)
    return dict(processor(images=frame, text=text, return_tensors="pt"))


def case(name, build, encoder_decoder):
    return Case(
        name,
        "instructblip",
        build,
        inputs,
        size=32,
        image_tokens=QUERIES,
        image_sees_prompt=True,
        encoder_decoder=encoder_decoder,
    )


CASES = [
    case("instructblip-vicuna", builder(llama, bos="<s>", front="<s>"), encoder_decoder=False),
    case("instructblip-t5", builder(small_t5, back="</s>"), encoder_decoder=True),
]
