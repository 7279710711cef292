"""Digests of a checkpoint's tokenizer and chat template: equal digests turn equal messages into equal token ids.

Two files with one meaning have one digest. transformers writes a tokenizer in another form than it has read: merges as
pairs in place of strings, missing fields with their defaults, the padding of the last call, and the tokens of
`tokenizer_config.json` among the added tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.template_syntax import require_template_syntax
from sun_sglang.errors import CheckpointError

# the version of the file format, the settings that transformers replaces at each call, and the step from ids to text
_NOT_TOKENS = ("version", "truncation", "padding", "decoder")
# fields of a BPE model that older files leave out (tokenizers: `models/bpe/serialization.rs`)
_BPE_DEFAULTS = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
# an empty affix adds nothing, as a missing one does
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
# names of special tokens in a chat template
_TOKENS_OF_TEMPLATES = ("bos_token", "eos_token", "pad_token", "unk_token")
_SLOW_FILES = ("tokenizer.model", "vocab.json", "merges.txt")


def tokenizer_digest(model: Path) -> str:
    """Return a digest of the part of a tokenizer that turns text into token ids, 16 hex characters.

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.
    """
    fast = model / "tokenizer.json"
    if fast.exists():
        return _fast_digest(*_stamp(fast), *_stamp(model / "tokenizer_config.json"))
    slow = [model / n for n in _SLOW_FILES if (model / n).exists()]
    if not slow:
        raise CheckpointError(f"{model}: no tokenizer; save the tokenizer beside the weights")
    return _digest(b"".join(p.read_bytes() for p in slow))


def chat_template_digest(model: Path) -> str:
    """Return a digest of the checkpoint's chat templates, 16 hex characters; empty if there is none.

    Args:
        model: directory of the tokenizer.

    Raises:
        CheckpointError: a template cannot be read or parsed.
    """
    templates = _templates(model)
    if not templates:
        return ""
    for name, template in templates.items():
        require_template_syntax(template, f"{model}: the chat template `{name}`")
    alone = templates["default"] if list(templates) == ["default"] else json.dumps(templates, sort_keys=True)
    return _template_digest(alone, model)


def served_template_digest(model: Path, engine: Mapping[str, Any]) -> str:
    """Return a digest of the chat template that a worker uses, 16 hex characters; empty if there is none.

    The file or name of SGLang's flag `chat_template` replaces the tokenizer's own template.

    Args:
        model: directory of the tokenizer.
        engine: SGLang's flags.

    Raises:
        CheckpointError: the template cannot be read or parsed.
    """
    flag = engine.get("chat_template")
    if not flag:
        return chat_template_digest(model)
    file = Path(str(flag))
    if not file.is_file():
        return _digest(str(flag).encode())
    template = _read_text(file)
    if file.suffix == ".jinja":
        # SGLang reads other files as JSON
        require_template_syntax(template, str(file))
    return _template_digest(template, model)


def _templates(model: Path) -> dict[str, str]:
    """Return the chat templates by name. Version 5 of transformers writes them as files, version 4 as a list."""
    file = model / "chat_template.jinja"
    if file.exists():
        others = sorted((model / "additional_chat_templates").glob("*.jinja"))
        return {"default": _read_text(file)} | {other.stem: _read_text(other) for other in others}
    given = _settings(model / "tokenizer_config.json").get("chat_template")
    if isinstance(given, list):
        return {str(t.get("name")): str(t.get("template")) for t in given if isinstance(t, dict)}
    return {} if given is None else {"default": str(given)}


def _settings(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _special_tokens(template: str, model: Path) -> dict[str, str]:
    """Return the special tokens that a template uses, by name; their text differs between tokenizers."""
    used = [name for name in _TOKENS_OF_TEMPLATES if name in template]
    if not used:
        return {}
    given = _settings(model / "special_tokens_map.json") | _settings(model / "tokenizer_config.json")
    tokens = {name: given.get(name) for name in used}
    return {name: str(t.get("content") if isinstance(t, dict) else t) for name, t in tokens.items() if t is not None}


def _stamp(file: Path) -> tuple[Path, int, int]:
    """Return a file, its size in bytes and its time of change in ns; zeros if it does not exist."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return file, 0, 0
    return file, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _fast_digest(file: Path, _size: int, _changed: int, config: Path, config_size: int, _config_changed: int) -> str:
    # cached: the file may have 20 MB, and a launch reads the same one for every pool
    tokenizer = read_json(file)
    settings = read_json(config) if config_size else {}
    try:
        # the standard library takes 20 times as long, and a launch digests the tokenizer of every model
        content = orjson.dumps(_canonical(tokenizer, settings), option=orjson.OPT_SORT_KEYS)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{file}: is not a tokenizer ({type(e).__name__}: {e})") from e
    return _digest(content)


def _canonical(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer in one form for all versions of transformers.

    Args:
        tokenizer: content of `tokenizer.json`.
        settings: content of `tokenizer_config.json`.
    """
    parts = {key: value for key, value in tokenizer.items() if key not in _NOT_TOKENS and value is not None}
    for key in ("pre_tokenizer", "post_processor"):
        if key in parts:
            parts[key] = _without_offsets(parts[key])
    model = parts.get("model")
    if isinstance(model, dict) and "merges" in model:
        parts["model"] = _canonical_bpe(model)
    parts["added_tokens"] = _added_tokens(tokenizer.get("added_tokens"), settings.get("added_tokens_decoder"))
    return parts


def _without_offsets(step: Any) -> Any:
    """Return a step without the settings that change the offsets of tokens and not the tokens."""
    if isinstance(step, list):
        return [_without_offsets(part) for part in step]
    if not isinstance(step, dict):
        return step
    return {key: _without_offsets(value) for key, value in step.items() if key != "trim_offsets"}


def _canonical_bpe(model: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in model.items() if value or key not in _AFFIXES}
    merges = [m if isinstance(m, str) else _merge(m) for m in model["merges"]]
    # files that hold only a BPE model have no type
    return {"type": "BPE", **_BPE_DEFAULTS, **given, "merges": merges}


def _merge(pair: list[str]) -> str | list[str]:
    """Return a merge in the form of older files, or as a pair where a token has a space, which that form lacks."""
    return pair if any(" " in token for token in pair) else " ".join(pair)


def _added_tokens(listed: Any, decoder: Any) -> list[Any]:
    """Return the added tokens in the order of their ids: of `tokenizer.json`, and those that transformers adds."""
    tokens = {token["id"]: token for token in listed or ()}
    for number, token in (decoder or {}).items():
        tokens.setdefault(int(number), {"id": int(number), **token})
    return [tokens[number] for number in sorted(tokens)]


def _template_digest(template: str, model: Path) -> str:
    tokens = _special_tokens(template, model)
    # editors add one newline at the end of a template, and Jinja drops it
    return _digest((template.removesuffix("\n") + (json.dumps(tokens, sort_keys=True) if tokens else "")).encode())


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{file}: cannot be read ({e})") from e


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
