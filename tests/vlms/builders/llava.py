from tiny_parts import Case, conversation, llama, save, tokenizer, vit
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

# As in LLaVA 1.5 on the Hub: images are moved in front of the text.
TEMPLATE = (
    "{% for turn in messages %}USER: {% for part in turn['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in turn['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def build(folder):
    words = tokenizer(["<image>"], bos="<s>", front="<s>", chat_template=TEMPLATE)
    config = LlavaConfig(
        vision_config=vit(model_type="clip_vision_model", projection_dim=16),
        text_config=llama(words),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    # As in LLaVA 1.5 on the Hub: left alone, this would crop the sides of a wide frame.
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    save(folder, LlavaForConditionalGeneration(config), words, pixels)


def inputs(folder, frame, text, order):
    processor = LlavaProcessor(
        CLIPImageProcessorPil.from_pretrained(folder),
        words := AutoTokenizer.from_pretrained(folder),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )
    if order == "text_first":
        written = f"USER: {text}\n<image> ASSISTANT:"
        return dict(processor(images=frame, text=written, return_tensors="pt"))
    return conversation(processor, frame, text, order)


CASES = [Case("llava", "llava", build, inputs, size=32, image_tokens=16)]
