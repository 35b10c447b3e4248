"""Conversion of optimizer and model state to flat dicts of tensors, which safetensors can store."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

Tensors = dict[str, torch.Tensor]

# Settings that choose between implementations of one optimizer, whose results are equal within rounding.
IMPLEMENTATION = ("foreach", "fused")


def optimizer_tensors(optimizer: Optimizer) -> Tensors:
    """Return moments and step counts of an optimizer, without its settings (`param_groups`).

    Args:
        optimizer: A torch optimizer; before its first step the result is empty. The tensors are not copied.

    Returns:
        Tensors by "optimizer/<number of the parameter>/<name>".
    """
    return {
        f"optimizer/{index}/{name}": torch.as_tensor(entry)
        for index, entries in optimizer.state_dict()["state"].items()
        for name, entry in entries.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: Tensors, param_groups: list[dict[str, object]]) -> None:
    """Load the state of an optimizer.

    Args:
        optimizer: Optimizer over parameters of the same shapes.
        tensors: The result of `optimizer_tensors`; other names are ignored.
        param_groups: Settings, from the optimizer's `state_dict()["param_groups"]`. The optimizer keeps its own choice
            of implementation.
    """
    state: dict[int, Tensors] = {}
    for name, tensor in below(tensors, "optimizer").items():
        index, entry = name.split("/")
        state.setdefault(int(index), {})[entry] = tensor
    groups = [
        saved | {name: group[name] for name in IMPLEMENTATION if name in group}
        for saved, group in zip(param_groups, optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def below(tensors: Tensors, folder: str) -> Tensors:
    """Return the tensors whose names begin with "<folder>/"; the keys are their names without it.

    Args:
        tensors: Tensors by name; they are not copied.
        folder: First part of the names, such as "policy".
    """
    start = f"{folder}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def copies(tensors: Tensors) -> Tensors:
    """Return detached, contiguous copies of tensors on the CPU.

    Args:
        tensors: Tensors by name, on any device.
    """
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
