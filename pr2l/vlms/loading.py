"""Loading of a VLM by its name, with the family that supports its architecture."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from pr2l.core import registry
from pr2l.vlms.backends.vllm import served
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.checkpoint import locate, model_type

GENERIC = "generic"  # for every model_type that no family lists


def load_vlm(name: str, options: Defaults | None = None) -> VLM:
    """Load a VLM with the family that its config.json names.

    A model of no known family is loaded by `generic`, which compares itself with the unmodified model.

    Args:
        name: "tiny" or another VLM that ships with pr2l, a local folder, or a Hugging Face Hub id (OWNER/NAME).
        options: None = the defaults.

    Raises:
        UserError: There is no such model, or the options do not fit it.
    """
    path = locate(name)
    load = family(model_type(path)).load
    if options is not None and options.server is not None:
        load = served(load.__self__).load
    vlm: VLM = load(path, options)
    return vlm


@cache
def layer_count(name: str) -> int:
    """Return the number of layers of a VLM, from its config alone.

    Args:
        name: As in `load_vlm`.
    """
    path = locate(name)
    family_class = family(model_type(path)).load.__self__
    return int(family_class.layers_of(family_class.read_config(path)))


def family(kind: str | None) -> ModuleType:
    """Return the module of pr2l/vlms/families/ for a model_type; for None or an unknown one, `generic`.

    Args:
        kind: `model_type` of config.json; see `MODEL_TYPES` of each family.
    """
    modules = [registry.load("vlms", name) for name in registry.names("vlms")]
    claims = {model_type: module for module in modules for model_type in module.MODEL_TYPES}
    return claims.get(kind or "") or registry.load("vlms", GENERIC)


def unknown_words(vlm: VLM, text: str) -> list[str]:
    """Return the words of a text for which the VLM's tokenizer has no token, in their order.

    A small vocabulary such as that of `tiny` maps all such words to the same token. Most tokenizers know every word.

    Args:
        vlm: VLM whose tokenizer is used.
        text: Words separated by spaces.
    """
    unknown = vlm.tokenizer.unk_token_id
    words = dict.fromkeys(text.split())
    return [word for word in words if unknown is not None and unknown in vlm.tokenizer(word)["input_ids"]]
