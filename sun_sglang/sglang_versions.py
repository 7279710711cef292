"""The SGLang versions on which this package is tested.

Read by the hooks (`patches/`), which state what they do on each version, by the emulator, which has an entry of reply
shapes for each version, and by the topology file, which selects the version that emulated workers imitate.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

SglangVersion = Literal["0.5.21", "0.5.22", "0.5.23"]
SUPPORTED_VERSIONS: Final[tuple[SglangVersion, ...]] = get_args(SglangVersion)
NEWEST_VERSION: Final[SglangVersion] = "0.5.23"
