"""A small checkpoint of a model_type: config, weights, tokenizer and processor, from the type's own classes."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import tiny_parts
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.auto.auto_mappings import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from mapping.shrink import IMAGE, like, small
from mapping.types import TYPES, Type
from pr2l.vlms.torchvision_free import real_class

VOCABULARY = 448
LITERAL = re.compile(r"""["'](<[^<>"'\s]{1,40}>|\[[A-Z_]{2,20}\]|\|[A-Z_]+\|)["']""")
ATTRIBUTE = re.compile(r"tokenizer, ?\"(\w+_token)\"|tokenizer\.(\w+_token)(?:_id)?\b")
USUAL = {"bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"}


def build(model_type: str, folder: Path) -> Any:
    """Write a small checkpoint into a folder, and return its processor."""
    kind = TYPES.get(model_type, Type())
    processor_class = getattr(transformers, kind.processor or PROCESSOR_MAPPING_NAMES[model_type])
    if getattr(processor_class, "is_dummy", False):
        processor_class = real_class(processor_class)
    words = tokenizer(processor_class, kind)
    config = small_config(model_type, kind)
    processor = small_processor(model_type, kind, processor_class, words, config)
    image = getattr(processor, "image_token", "") if kind.image is None else kind.image
    words.chat_template = processor.chat_template = None if kind.plain else tiny_parts.chat_template(image)
    set_ids(config, processor, words, kind)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).float()
    open_gates(model)
    tiny_parts.save(folder, model, words)
    save_processor(folder, kind, processor, processor_class)
    return processor


@torch.no_grad()
def open_gates(model: Any) -> None:
    """Open the gates of cross-attention, which are closed before training."""
    for name, weight in model.named_parameters():
        if name.rpartition(".")[2].startswith(("alpha_", "cross_attn_")):
            weight.fill_(0.5)


def save_processor(folder: Path, kind: Type, processor: Any, processor_class: Any) -> None:
    """Save a processor's parts and arguments as on the Hub."""
    settings: dict[str, Any] = {"processor_class": processor_class.__name__}
    audio = getattr(processor, "feature_extractor", None)
    if (image := getattr(processor, "image_processor", None)) is not None:
        if audio is None:
            image.save_pretrained(folder)
        else:  # both would be preprocessor_config.json
            settings["image_processor"] = json.loads(image.to_json_string())
            settings["feature_extractor"] = json.loads(audio.to_json_string())
    for name in ("qformer_tokenizer",):
        if hasattr(processor, name):
            getattr(processor, name).save_pretrained(folder / name)
    signature = inspect.signature(processor_class.__init__).parameters
    simple = {
        name: value for name in signature if isinstance(value := getattr(processor, name, None), str | int | float)
    }
    (folder / "processor_config.json").write_text(json.dumps(settings | simple | kind.arguments))


def tokenizer(processor_class: Any, kind: Type) -> Any:
    """Return a tokenizer with the special tokens that the processor's source names."""
    source = Path(inspect.getfile(processor_class)).read_text(encoding="utf-8")
    names = sorted({a or b for a, b in ATTRIBUTE.findall(source)} - USUAL)
    extra = {name: f"<{name}>" for name in names} | kind.tokens
    constants = {value for name, value in vars(processor_class).items() if name.endswith("_TOKEN")}
    literals = sorted({*LITERAL.findall(source), *constants} - {"<s>", "</s>", "<pad>"})
    special = [*dict.fromkeys([*extra.values(), *literals, *kind.special])]
    end = "</s>" if kind.encoder_decoder else ""
    named = {name: extra.pop(name) for name in USUAL & extra.keys()}
    front = "" if end else "<s>"
    return tiny_parts.tokenizer(special, bos="<s>", front=front, back=end, extra_special_tokens=extra, **named)


def small_config(model_type: str, kind: Type) -> PreTrainedConfig:
    config_class = CONFIG_MAPPING[model_type]
    arguments = small(config_class(**kind.defaults), kind.config, VOCABULARY)
    arguments.pop("model_type", None)
    return config_class(**arguments)


def parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield a config, and the configs in it, those of vision first."""
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    for value in sorted(inner, key=lambda value: "vision" not in value.model_type):
        yield from parts(value)
    yield config


def find(config: PreTrainedConfig, name: str) -> Any:
    """Return the first value of this name that is not None in a config or the configs in it."""
    return next((value for part in parts(config) if (value := getattr(part, name, None)) is not None), None)


SAME = {  # names of a processor's arguments -> names in a config
    "merge_size": "spatial_merge_size",
    "image_seq_len": "image_seq_length",
    "img_size": "image_size",
    "vision_patch_size": "patch_size",
}
PIXELS = {
    "height": IMAGE,
    "width": IMAGE,
    "shortest_edge": IMAGE,
    "longest_edge": IMAGE,
    "max_height": IMAGE,
    "max_width": IMAGE,
}


def small_image_processor(model_type: str, kind: Type, config: PreTrainedConfig) -> Any:
    names = kind.image_processor or IMAGE_PROCESSOR_MAPPING_NAMES[model_type]
    name = names if isinstance(names, str) else names.get("pil") or names["torchvision"]
    image_class = getattr(transformers, name)
    if getattr(image_class, "is_dummy", False):
        image_class = real_class(image_class)
    defaults, chosen = vars(image_class()), {}
    for name, value in defaults.items():
        if name in ("size", "crop_size", "max_image_size", "min_image_size") and value is not None:
            sides = (
                {key: side for key, side in dict(value).items() if side is not None}
                if not isinstance(value, int)
                else {}
            )
            chosen[name] = {key: PIXELS.get(key, IMAGE**2) for key in sides} if sides else IMAGE
            if set(sides) == {"shortest_edge", "longest_edge"} and sides["longest_edge"] > 10000:
                chosen[name] = {"shortest_edge": IMAGE**2, "longest_edge": IMAGE**2}  # numbers of pixels
        elif (found := find(config, SAME.get(name, name))) is not None and name not in ("image_token", "num_channels"):
            chosen[name] = like(value, found)
    accepted = {name: value for name, value in chosen.items() if value is not None}
    return image_class(**accepted | kind.pixels)


def small_processor(model_type: str, kind: Type, processor_class: Any, words: Any, config: PreTrainedConfig) -> Any:
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(processor_class.__init__).parameters.items():
        if "tokenizer" in name:
            arguments[name] = words
        elif name == "image_processor":
            arguments[name] = small_image_processor(model_type, kind, config)
        elif name == "video_processor":
            arguments[name] = tiny_parts.NoVideo()
        elif name == "feature_extractor":
            arguments[name] = getattr(transformers, kind.audio or FEATURE_EXTRACTOR_MAPPING_NAMES[model_type])()
        elif name == "num_additional_image_tokens":
            arguments[name] = int("clip" in config.vision_config.model_type)
        elif isinstance(parameter.default, int | None) and (found := find(config, SAME.get(name, name))) is not None:
            arguments[name] = found
    arguments = {name: value for name, value in arguments.items() if name not in ("audio_tokenizer", "chat_template")}
    return tiny_parts.without_video(processor_class)(**arguments | kind.arguments)


def set_ids(config: PreTrainedConfig, processor: Any, words: Any, kind: Type) -> None:
    """Set the ids of special tokens in the config to those of the tokenizer."""
    if (vocabulary := getattr(config, "vocabulary_map", None)) is not None:
        vocabulary["<image>"] = processor.image_token_id
    for name, tokens in kind.id_lists.items():
        setattr(config, name, words.convert_tokens_to_ids(list(tokens)))
    for part in parts(config):
        for name, value in vars(part).items():
            stem = name.removesuffix("_id").removesuffix("_index")
            wanted = isinstance(value, int | None) and (stem.endswith("_token") or stem in kind.ids)
            if wanted and (token := token_id(name, processor, words, kind)) is not None:
                setattr(part, name, token)


def token_id(name: str, processor: Any, words: Any, kind: Type) -> int | None:
    stem = name.removesuffix("_id").removesuffix("_index")
    if stem in kind.ids:
        return words.convert_tokens_to_ids(kind.ids[stem])
    if stem == "decoder_start_token":
        return words.bos_token_id
    for holder in (processor, words):
        if isinstance(value := getattr(holder, f"{stem}_id", None), int):
            return value
    token = getattr(processor, stem, None)
    return words.convert_tokens_to_ids(token) if isinstance(token, str) and token in words.get_vocab() else None


@cache
def model_types() -> list[str]:
    """Return every model_type of transformers' mapping."""
    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
