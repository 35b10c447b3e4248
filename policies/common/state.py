"""Learning state as flat dicts of tensors, which safetensors can hold, and back."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

Tensors = dict[str, torch.Tensor]


def optimizer_tensors(optimizer: Optimizer) -> Tensors:
    """Its moments and counts by "optimizer/<parameter>/<name>"; its settings are `state_dict()["param_groups"]`."""
    state = optimizer.state_dict()["state"]
    entries = ((f"optimizer/{index}/{name}", each[name]) for index, each in state.items() for name in each)
    return {name: torch.as_tensor(entry) for name, entry in entries}


def restore_optimizer(optimizer: Optimizer, tensors: Tensors, param_groups: list[dict[str, object]]) -> None:
    """Puts back what `optimizer_tensors` took, and the settings."""
    state: dict[int, Tensors] = {}
    for name, tensor in below(tensors, "optimizer").items():
        index, entry = name.split("/")
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": param_groups})


def below(tensors: Tensors, folder: str) -> Tensors:
    """The tensors whose names begin with "<folder>/", without that."""
    start = f"{folder}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def copies(tensors: Tensors) -> Tensors:
    """On the CPU; what happens to the originals does not change them."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
