"""`GET /sun/adapters`: the adapters in a worker's slots, and the copies into slots so far.

Written by SGLang workers (`worker/adapters_page.py`, with the numbers of `patches/lora/cold_loads.py`) and emulated
workers (`emulator/api`); read by the router's load monitor, which prefers a worker that holds a task's adapter.

A worker keeps every loaded adapter in host memory, and those that a batch uses in one of `AdapterLimits.slots` slots.
A request whose adapter has no slot waits for a copy into one: a cold load.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

ADAPTERS_PATH: Final = "/sun/adapters"
_Name = Annotated[str, StringConstraints(max_length=4096)]
# a bound on what a page from the network can make the router keep
_MOST = 1 << 16


class ColdLoads(BaseModel):
    """The cold loads of one adapter since the worker started.

    Attributes:
        loads: number of copies into a slot.
        seconds: time that batches waited for these copies, on the scheduler's clock. On a GPU the copies go on beside
            the batch's first layers, and the time is that of their start.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    loads: int = Field(ge=0, le=1 << 53)
    seconds: float = Field(ge=0, le=1e12)


class AdaptersReport(BaseModel):
    """The content of the page.

    Attributes:
        resident: names of the adapters in slots, those of operators included.
        cold: the cold loads by the adapter's name, of unloaded ones too.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    resident: tuple[_Name, ...] = Field(default=(), max_length=_MOST)
    cold: dict[_Name, ColdLoads] = Field(default_factory=dict, max_length=_MOST)
