"""Optimizer and model state as flat dicts of tensors, which safetensors can hold."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

Tensors = dict[str, torch.Tensor]


def optimizer_tensors(optimizer: Optimizer) -> Tensors:
    """Moments and step counts by "optimizer/<parameter>/<name>", without the settings (`param_groups`)."""
    return {
        f"optimizer/{index}/{name}": torch.as_tensor(entry)
        for index, entries in optimizer.state_dict()["state"].items()
        for name, entry in entries.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: Tensors, param_groups: list[dict[str, object]]) -> None:
    """Put back what `optimizer_tensors` returned, and the settings."""
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
    """Copies on the CPU, contiguous and detached."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
