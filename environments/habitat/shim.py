"""Stubs with which habitat-lab can be imported without habitat-sim, which has no pip package.

Four modules of habitat-lab that ObjectNav does not use (rearrangement, articulated objects, batch rendering) import
habitat-sim. If habitat-sim is not installed, stubs replace these modules.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def installed() -> bool:
    """Return whether habitat-sim is installed."""
    return find_spec("habitat_sim") is not None


def prepare() -> None:
    """Replace the modules by stubs if habitat-sim is not installed; call this before `import habitat`."""
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
    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise ImportError(
            "this part of habitat-lab needs habitat-sim; install it with: conda install habitat-sim -c aihabitat"
        )
