"""Small checkpoints, one per case of `builders`, and VLMs loaded from them, one per case and set of options.

Checkpoints, VLMs and hidden states are cached for the session and shared by all tests, so they are read-only. A test
that changes a VLM loads its own with `load_vlm`, from a copy of the checkpoint if it changes files; with the fixture
`shared_processors` that reads only weights.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tiny_parts import Case, frames
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from pr2l.core import registry
from pr2l.core.types import Hidden
from pr2l.vlms import checkpoint
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.loading import family, load_vlm

# transformers writes each config that it reads as text, for a log message; that takes 8 % of the time of these tests.
PreTrainedConfig.__repr__ = object.__repr__

FAMILIES = registry.names("vlms")
CASES = [case for name in FAMILIES if find_spec(f"builders.{name}") for case in import_module(f"builders.{name}").CASES]
CASE = {case.name: case for case in CASES}
ORDERS = [
    pytest.param(case, order, id=f"{case.name}-{order}")
    for case in CASES
    for order in family(case.model_type).load.__self__.token_orders
]
ENGINES = [case for case in CASES if family(case.model_type).load.__self__.has_engine]  # with forward passes of our own

TEXTS = ["where is the medikit ?", "is it near ?", "is it left ?"]  # the last two have equally many tokens
NEW_TOKENS = 3
LAYERS = (0, -2, -1)

all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
all_orders = pytest.mark.parametrize(("case", "order"), ORDERS)


@cache
def folder(case: Case) -> Path:
    path = Path(mkdtemp(prefix=case.name))
    case.save(path)
    return path


@cache
def _load(case: Case, options: Defaults) -> VLM:
    if options.random_weights is not None or options.dtype == "int8" or options.compile:  # these change the model
        return load_vlm(str(folder(case)), options)
    with patch.multiple(checkpoint, **SHARED_PARTS):
        return load_vlm(str(folder(case)), options)


_read_weights, _models = checkpoint.read_weights, {}
read_config_once = cache(checkpoint.read_config)


def read_model_once(path: str, dtype: torch.dtype, config: Any = None) -> Any:
    """Return the model of a checkpoint, one per dtype and number of layers.

    A VLM removes its decoding settings and unused layers; another VLM with the same number of layers does the same.
    """
    key = path, dtype, config and config.get_text_config().num_hidden_layers
    if key not in _models:
        model = _read_weights(path, dtype, config)
        inner = getattr(model, "language_model", None)
        _models[key] = model, [(m, m.generation_config) for m in (model, inner) if hasattr(m, "generation_config")]
    model, settings = _models[key]
    for module, generation_config in settings:
        module.generation_config = generation_config
    return model


# Reading these takes most of the time of loading a small VLM.
PROCESSORS = {
    "read_config": lambda path: copy.deepcopy(read_config_once(path)),
    "read_tokenizer": cache(checkpoint.read_tokenizer),
    "read_image_processor": cache(checkpoint.read_image_processor),
}
SHARED_PARTS = {"read_weights": read_model_once, **PROCESSORS}


@pytest.fixture
def shared_processors() -> Iterator[None]:
    """Read the config, tokenizer and image processor of a checkpoint once per session, for a test that changes none."""
    with patch.multiple(checkpoint, **PROCESSORS):
        yield


def load(case: Case, **options) -> VLM:
    """Return the shared VLM with these options, at the image size of the case."""
    return _load(case, Defaults(**{"image_size": case.image_size, **options}))


def vlm(case: Case, order: str = "image_first", **options) -> VLM:
    """Return the shared VLM that reads LAYERS and generates NEW_TOKENS, unless the options say otherwise."""
    defaults = {"new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "layers": LAYERS}
    return load(case, **{"token_order": order, **defaults, **options})


def hidden(case: Case, order: str = "image_first", **options) -> Hidden:
    """Return the hidden states of `vlm` for `pictures` and TEXTS, computed once."""
    return _hidden(vlm(case, order, **options), case)


@cache
def _hidden(model: VLM, case: Case) -> Hidden:
    return model.hidden(pictures(case), TEXTS)


@cache
def unmodified(case: Case):
    """Return the model without pr2l: of transformers, or the case's own."""
    if case.original is not None:
        return case.original(folder(case))
    return AutoModelForImageTextToText.from_pretrained(folder(case)).eval()


def unmodified_inputs(case: Case, order: str, row: int) -> dict[str, Any]:
    """Return the unmodified model's inputs for a frame of `pictures` and a text of TEXTS, by its own processor."""
    return dict(_unmodified_inputs(case, order, row))


@cache
def _unmodified_inputs(case: Case, order: str, row: int) -> dict[str, Any]:
    return case.inputs(folder(case), pictures(case)[row], TEXTS[row], order)


def pictures(case: Case) -> np.ndarray:
    """Return one frame per text of TEXTS, uint8 [3, S, S, 3]."""
    return frames(len(TEXTS), case.size, case.size)


def stacked(states, layers=LAYERS) -> torch.Tensor:
    """Return some layers of a model's tuple of hidden states, [B, L, T, D]."""
    return torch.stack([states[layer] for layer in layers], dim=1)


@torch.no_grad()
def generated_states(model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states [1, L, N, D] of a causal model's first NEW_TOKENS greedy tokens, and all ids, by `generate`."""
    out = model.generate(
        **inputs,
        do_sample=False,
        min_new_tokens=NEW_TOKENS + 1,
        max_new_tokens=NEW_TOKENS + 1,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    return torch.cat([stacked(step)[:, :, -1:] for step in out.hidden_states[1:]], dim=2), out.sequences


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def assert_same_hidden(ours: Hidden, theirs: Hidden) -> None:
    assert ours.spans == theirs.spans and ours.answers == theirs.answers
    assert torch.equal(ours.mask, theirs.mask)
    assert_close(ours.states, theirs.states)


@contextmanager
def count_tokens(module: torch.nn.Module) -> Iterator[list[int]]:
    """Yield a list to which each forward pass of an embedding or a head appends the size of its input's [B, T]."""
    sizes: list[int] = []
    hook = module.register_forward_hook(lambda _, inputs, output: sizes.append(inputs[0].shape[:2].numel()))
    try:
        yield sizes
    finally:
        hook.remove()
