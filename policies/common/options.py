"""Types of options, with the bounds that pydantic enforces when it reads a config."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

LARGEST = 1e30  # float32 ends at 3e38, and optimizers multiply options by up to 1000

PositiveNumber: TypeAlias = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
Number: TypeAlias = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
"""0 or more."""
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""From 0 to 1."""
Sizes: TypeAlias = tuple[Annotated[int, Field(gt=0)], ...]
"""Units of each layer; () = no layer."""
SomeSizes: TypeAlias = Annotated[Sizes, Field(min_length=1)]
"""Units of each of one or more layers."""
Device: TypeAlias = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
"""Of torch; auto = a GPU if there is one."""
