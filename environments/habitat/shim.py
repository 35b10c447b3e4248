"""Lets habitat-lab be imported without habitat-sim, which has no pip package.

Four of habitat-lab's modules import habitat-sim although ObjectNav uses nothing of them (rearrangement, articulated
objects, batch rendering). Where habitat-sim is absent, stubs take their place; where it is there, nothing happens.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def installed() -> bool:
    """Whether the real habitat-sim is there."""
    return find_spec("habitat_sim") is not None


def prepare() -> None:
    """To be called before `import habitat`."""
    if not installed():
        _stub("habitat.sims.habitat_simulator.object_state_machine", ObjectStateMachine=_Absent)
        _stub("habitat.tasks.rearrange", _try_register_rearrange_task=lambda: None, __path__=[])
        _stub("habitat.tasks.rearrange.rearrange_sim", add_perf_timing_func=lambda name=None: lambda function: function)
        _stub("habitat.core.batch_rendering.env_batch_renderer", EnvBatchRenderer=_Absent)


def _stub(name: str, **attributes: Any) -> None:
    module = ModuleType(name)
    vars(module).update(attributes)
    sys.modules.setdefault(name, module)


class _Absent:
    def __init__(self, *arguments: Any, **named: Any) -> None:
        raise ImportError("this part of habitat-lab needs habitat-sim: conda install habitat-sim -c aihabitat")
