"""Find a checkpoint on this machine: a directory, or a snapshot in the Hugging Face cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sun_sglang.checkpoint.completeness.stored import missing_shards


def find_checkpoint(model: str, revision: str | None = None) -> Path | None:
    """Return the directory of a checkpoint on this machine; None where it is not complete here.

    Args:
        model: a directory, or a Hugging Face id.
        revision: the revision of a Hugging Face id; None for the default one.
    """
    if Path(model).is_dir():
        return Path(model)
    snapshot = hub_snapshot(model, revision)
    complete = (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors"))
    # the rest of a download that was cut off is fetched at the start
    return snapshot if complete and not missing_shards(snapshot) else None


def hub_snapshot(repository: str, revision: str | None = None) -> Path:
    """Return the directory that a repository's snapshot has, or would have, in the Hugging Face cache."""
    directory = _hub_cache(os.environ) / f"models--{repository.replace('/', '--')}"
    ref = directory / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    return directory / "snapshots" / (commit or "main")


def _hub_cache(environ: Mapping[str, str]) -> Path:
    """Return the directory of Hugging Face's downloads (huggingface_hub: `constants.py`)."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"]).expanduser()
    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(environ.get("HF_HOME") or cache / "huggingface")
    return home.expanduser() / "hub"
