"""Whole processors of checkpoints, without the parts that pr2l never uses.

AutoProcessor also reads a video processor, which needs torchvision, and an image processor that prefers torchvision.
Here the image processor is the PIL version, and video and audio processors are replaced by an empty object, so that a
processor works and gives the same numbers with and without torchvision.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import transformers
from transformers import PROCESSOR_MAPPING, TokenizersBackend
from transformers.models.auto.processing_auto import processor_class_from_name

from pr2l.core.errors import UserError
from pr2l.vlms import checkpoint
from pr2l.vlms.torchvision_free import real_class

FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
UNUSED = ("video_processor", "feature_extractor", "audio_processor")


class Unused:
    """Replacement of a part that is never called; each of its attributes is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def read_processor(path: str, config: Any) -> Any:
    """Read a processor.

    Args:
        path: A local folder or a Hub id.
        config: Config of the model.

    Returns:
        A processor of transformers' class, which has an image processor, a tokenizer and perhaps a chat template.

    Raises:
        UserError: The checkpoint has no processor, or a part of it cannot be read.
    """
    processor_class = find_class(path, config)
    return checkpoint.read_part(path, "processor", lambda: _read(path, processor_class))


def find_class(path: str, config: Any) -> Any:
    """Return the class of a checkpoint's processor, by the name in its files or by the config's class.

    Args:
        path: A local folder or a Hub id.
        config: Config of the model.

    Raises:
        UserError: There is none, or only one that comes with the checkpoint as Python code.
    """
    files = [checkpoint.read_json(path, name) or {} for name in FILES]
    name = next((values["processor_class"] for values in files if values.get("processor_class")), None)
    found = None if name is None else processor_class_from_name(name)
    if found is None and type(config) in PROCESSOR_MAPPING:
        found = PROCESSOR_MAPPING[type(config)]
    if found is None and any("AutoProcessor" in values.get("auto_map", {}) for values in files):
        raise UserError(f"the processor of {path!r} {checkpoint.NEEDS_CODE}")
    if found is None:
        raise UserError(
            f"{path!r} does not say which processor a {config.model_type} has; add"
            ' {"processor_class": "NAME"} to its processor_config.json, with the name of a class of transformers.'
        )
    is_dummy = getattr(found, "is_dummy", False)  # transformers says that it needs torchvision
    return real_class(getattr(transformers, found.__name__)) if is_dummy else found


def _read(path: str, processor_class: Any) -> Any:
    settings, _ = processor_class.get_processor_dict(path)
    parts = {name: _part(path, processor_class, name) for name in processor_class.get_attributes()}
    accepted = signature(processor_class.__init__).parameters
    arguments = {name: value for name, value in settings.items() if name in accepted and name not in parts}
    processor = _with_unused_parts(processor_class)(**parts, **arguments)
    processor.chat_template = settings.get("chat_template") or processor.chat_template
    return processor


def _part(path: str, processor_class: Any, name: str) -> Any:
    if name in UNUSED:
        return Unused()
    if name == "image_processor":
        return checkpoint.read_image_processor(path)
    if "Pixtral" in processor_class.__name__:  # as in transformers; AutoTokenizer would take another class
        return TokenizersBackend.from_pretrained(path, **checkpoint.NO_CODE)
    try:
        return checkpoint.read_tokenizer(path, "" if name == "tokenizer" else name)
    except UserError:
        if name == "tokenizer":
            raise
        return checkpoint.read_tokenizer(path)  # older checkpoints have one tokenizer for both


def _with_unused_parts(processor_class: Any) -> Any:
    """Return a subclass that accepts an `Unused` part."""

    class Processor(processor_class):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if not isinstance(argument, Unused):
                return super().check_argument_for_proper_class(argument_name, argument)
            return Unused

    Processor.__name__ = processor_class.__name__
    return Processor
