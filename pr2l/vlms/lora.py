"""LoRA adapters by peft: small trainable matrices in addition to a model's frozen linear layers."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from safetensors import SafetensorError, safe_open
from torch import nn

from pr2l.core.errors import UserError, did_you_mean, first_line

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"  # as peft writes them


class Lora(BaseModel):
    """Options of a LoRA adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: PositiveInt = 16  # rank of the small matrices: enough for a few kinds of question; memory grows with it
    alpha: PositiveInt = 32  # they are scaled by alpha / r; with alpha = 2 r, one learning rate suits every r
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)  # 0: there are many frames, and few are repeated
    # "all-linear", a list of endings of layers' names, or a regular expression of whole names. All: the vision
    # tower has to learn too, as a simulator does not look like the photographs that it knows
    target_modules: str | tuple[str, ...] = "all-linear"


def add_lora(model: nn.Module, options: Lora, seed: int = 0) -> Any:
    """Put a new LoRA adapter into a model, whose own weights are frozen.

    The new adapter does not change the model's output before it is trained.

    Args:
        model: A transformers model, changed in place.
        options: Options of the adapter.
        seed: Seed of the adapter's initial weights; the state of torch's generators is kept.

    Returns:
        peft's wrapper of the same model.

    Raises:
        UserError: peft is not installed, no layer matches target_modules, or a matching layer shares its weights with
            another layer, such as an lm_head that is tied to the input embeddings.
    """
    targets = options.target_modules
    config = _peft().LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            with _without_peft_warning():
                adapted = _peft().get_peft_model(model, config)
        except ValueError as error:
            raise UserError(_no_targets(model, targets, error)) from error
    _refuse_shared_weights(adapted, targets)
    return adapted


def save_lora(adapted: Any, folder: Path) -> None:
    """Write a model's adapter to a folder, as safetensors and JSON in peft's format.

    Args:
        adapted: Model with an adapter, from `add_lora` or `read_lora`.
        folder: Folder to write to.
    """
    adapted.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card


def read_lora(model: nn.Module, folder: Path) -> Any:
    """Put a saved LoRA adapter into a model, whose own weights are frozen. The adapter can be trained further.

    Args:
        model: A transformers model like the one for which the adapter was made, changed in place.
        folder: Folder that `save_lora`, `pr2l finetune` or peft wrote; weights are read from safetensors only.

    Returns:
        peft's wrapper of the same model.

    Raises:
        UserError: The adapter is incomplete, or belongs to another model.
    """
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{str(folder)!r} contains no LoRA adapter: it has no {name}.")
    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as weights:
            saved = set(weights.keys())
        with _without_peft_warning():
            adapted = _peft().PeftModel.from_pretrained(model, folder, is_trainable=True)
        if different := sorted(saved ^ set(_peft().get_peft_model_state_dict(adapted, save_embedding_layers=False))):
            raise ValueError(f"only one of them has {different[0]}")
    except SafetensorError as error:
        raise UserError(f"{WEIGHTS_FILE} of {str(folder)!r} is not a complete file ({error}).") from error
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = first_line(error)
        raise UserError(
            f"the adapter in {str(folder)!r} does not belong to a {type(model).__name__}: {reason}"
        ) from error
    _refuse_shared_weights(adapted, "those of the adapter")
    return adapted


@contextmanager
def _without_peft_warning() -> Iterator[None]:
    """Silence a FutureWarning of peft 0.21, and the warning about missing keys, which `read_lora` makes an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _refuse_shared_weights(adapted: Any, targets: Any) -> None:
    """Raise UserError if an adapted layer shares its weights with another layer.

    A merged or saved model adds such an adapter to both layers; the trained model adds it to one of them.
    """
    owners = defaultdict(set)
    for name, weight in adapted.named_parameters(remove_duplicate=False):
        owners[id(weight)].add(name.removeprefix("base_model.model.").replace(".base_layer", ""))
    for name, module in adapted.named_modules():
        weight = getattr(getattr(module, "base_layer", None), "weight", None)
        if weight is not None and len(names := owners[id(weight)]) > 1:
            layer = name.rpartition(".")[2]
            raise UserError(
                f"lora.target_modules={targets!r}: {layer!r} shares its weights with another layer"
                f" ({', '.join(sorted(names))}), so the merged or saved model would differ from the trained one."
                f" Leave {layer!r} out of target_modules, or use 'all-linear'."
            )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError(
            "LoRA needs the package peft: `pip install peft`. Without it, use method=full in `pr2l pretrain`."
        ) from error
    return peft


def _no_targets(model: nn.Module, targets: str | tuple[str, ...], error: Exception) -> str:
    """Return peft's error, and the endings of names of linear layers."""
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    endings = sorted({name.rpartition(".")[2] for name in linear})
    names = [targets] if isinstance(targets, str) else targets
    close = "".join(did_you_mean(name, endings) for name in names if name not in endings)
    return (
        f"lora.target_modules={list(names)}: no layer of this {type(model).__name__} that LoRA could adapt.{close}"
        f" Its linear layers end in: {', '.join(endings)}; 'all-linear' takes them all. ({error})"
    )
