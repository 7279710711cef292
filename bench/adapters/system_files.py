"""The compared systems, as files that `sun bench --compare` starts: SUN, one multi-LoRA server, and the plain base."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def write_systems(directory: Path, base: Path, adapters: Sequence[Path], *, slots: int, dtype: str) -> list[Path]:
    """Write the files of the systems, and return them; the first is compared with the others.

    All serve the same tasks, one for each adapter, named after its folder.

        sun         one prefill worker with the adapters, one decode worker with the plain base
        multi_lora  one SGLang server with all adapters in both phases, and a slot for each
        plain       SUN's workers without adapters: the base answers every task

    Args:
        directory: where; it is created.
        base: the base's checkpoint.
        adapters: folders of the adapters.
        slots: adapters that one batch of SUN's prefill worker can use, beside requests without one.
        dtype: of all models.
    """
    directory.mkdir(parents=True, exist_ok=True)

    def relative(path: Path) -> str:
        return os.path.relpath(path, directory)

    model = relative(base)
    pools = {"base": {"role": "decode", "model": model}, "shared": {"role": "prefill", "model": model}}
    lora = {**pools, "shared": {**pools["shared"], "engine": {"max_loras_per_batch": slots + 1}}}
    pair = {"prefill": "shared", "decode": "base"}
    engine = {"dtype": dtype}
    server = {"name": "base", "model": model, "adapters": {a.name: relative(a) for a in adapters}}
    contents: Mapping[str, Mapping[str, Any]] = {
        "sun": {
            "pools": lora,
            "tasks": {a.name: {**pair, "adapter": relative(a)} for a in adapters},
            "engine": engine,
        },
        "multi_lora": {"servers": [server], "engine": engine},
        "plain": {"pools": pools, "tasks": {a.name: pair for a in adapters}, "engine": engine},
    }
    files = []
    for name, content in contents.items():
        files.append(directory / f"{name}.yaml")
        files[-1].write_text(yaml.dump(content, sort_keys=False, Dumper=_NoAliases))
    return files


class _NoAliases(yaml.SafeDumper):
    """Write equal parts in full, as a person would."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: no part refers to another one."""
        return True
