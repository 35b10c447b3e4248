"""State of the process-wide random generators of torch, NumPy and Python, for checkpoints without pickle."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from .state import Tensors, below

Values = dict[str, Any]


def random_tensors() -> Tensors:
    """Return the states of torch's generators, one per device, by "random/torch" and "random/cuda/<device>"."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    devices = {f"random/cuda/{index}": generator for index, generator in enumerate(cuda)}
    return {"random/torch": torch.get_rng_state()} | devices


def random_values() -> Values:
    """Return the states of Python's and NumPy's generators as JSON values."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    key = numpy_state["state"]["key"].tolist()  # 624 words
    return {
        "python": [version, list(words), gauss],
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
    }


def restore_random(tensors: Tensors, values: Values) -> None:
    """Restore all generators.

    Args:
        tensors: Tensors that contain those of `random_tensors`.
        values: JSON values from `random_values`.
    """
    torch.set_rng_state(tensors["random/torch"])
    devices = {int(name): tensor for name, tensor in below(tensors, "random/cuda").items()}
    if devices and len(devices) == torch.cuda.device_count():  # with other GPUs the run continues, but not bit for bit
        torch.cuda.set_rng_state_all([devices[index] for index in sorted(devices)])
    np.random.set_state(values["numpy"])
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
