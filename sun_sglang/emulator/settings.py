"""The settings of an emulated worker: SGLang's flags, and a `--sim-*` flag for each field of `Emulation`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from sun_sglang.contracts.adapter import AdapterLimits
from sun_sglang.contracts.adapter_targets import accepted_targets
from sun_sglang.contracts.module import ModuleLimits
from sun_sglang.errors import TopologyError
from sun_sglang.strict import Strict, first_invalid
from sun_sglang.topology import Emulation, Role

_PREFIX = "sim_"
# SGLang's default of --max-loras-per-batch
_SLOTS = 8


class Settings(Strict):
    """The settings of one emulated worker.

    Attributes:
        role: `prefill` or `decode`.
        model: a directory, or any name where there is no checkpoint.
        revision: revision of the model.
        served_model_name: the model's name in `/v1/models`.
        host: address of its ports.
        port: its HTTP port; 0 takes a free one.
        bootstrap_port: port to which decode workers connect; None on a decode worker.
        max_total_tokens: tokens of KV that fit; None takes the cost file's number.
        context_length: tokens; None takes the checkpoint's number, else the emulation's.
        engine: the SGLang flags on which its identity depends.
        decode_cache: whether a decode worker keeps the KV of prompts.
        emulation: the emulated behaviour.
        adapters: the LoRA adapters that it accepts; None on a worker without LoRA.
        modules: how a prefill worker keeps modules; None on a worker that serves its own model alone.
        key: the worker key that every request must carry; None if none is required.
    """

    role: Role
    model: str
    revision: str | None = None
    served_model_name: str
    host: str = "127.0.0.1"
    port: int = 0
    bootstrap_port: int | None = None
    max_total_tokens: int | None = None
    context_length: int | None = None
    engine: dict[str, str]
    decode_cache: bool = True
    emulation: Emulation
    adapters: AdapterLimits | None = None
    modules: ModuleLimits | None = None
    key: str | None = Field(default=None, repr=False)


class _Flag(NamedTuple):
    name: str
    kind: type
    identity: bool = False


_FLAGS = (
    _Flag("revision", str),
    _Flag("served_model_name", str),
    _Flag("host", str),
    _Flag("port", int),
    _Flag("max_total_tokens", int),
    _Flag("context_length", int),
    _Flag("dtype", str, identity=True),
    _Flag("kv_cache_dtype", str, identity=True),
    _Flag("page_size", str, identity=True),
    _Flag("tp_size", str, identity=True),
    _Flag("tokenizer_path", str, identity=True),
    _Flag("chat_template", str, identity=True),
)


def parse_settings(argv: Sequence[str]) -> Settings:
    """Return the settings of a command line. Other flags of SGLang are accepted and have no effect.

    Raises:
        TopologyError: the value of a `--sim-*` flag is wrong, or the flags of LoRA adapters contradict each other.
        SystemExit: a flag is missing or malformed (argparse).
    """
    parsed, _ = _parser().parse_known_args(argv)
    given = vars(parsed)
    emulation = {k.removeprefix(_PREFIX): v for k, v in given.items() if k.startswith(_PREFIX) and v is not None}
    try:
        return Settings(
            role=given["disaggregation_mode"],
            model=given["model_path"],
            bootstrap_port=given["disaggregation_bootstrap_port"]
            if given["disaggregation_mode"] == "prefill"
            else None,
            decode_cache=given["disaggregation_decode_enable_radix_cache"],
            engine={f.name: given[f.name] for f in _FLAGS if f.identity and given[f.name] is not None},
            emulation=Emulation.model_validate(emulation),
            adapters=_adapter_limits(given),
            **{f.name: given[f.name] for f in _FLAGS if not f.identity and given[f.name] is not None},
            **({} if given["served_model_name"] else {"served_model_name": given["model_path"]}),
        )
    except ValidationError as e:
        field = first_invalid(e, Emulation, show_value=True)
        raise TopologyError("--sim-" + "-".join(field.path).replace("_", "-"), field.problem, field.fix) from e


def emulation_flags(emulation: Emulation) -> dict[str, str]:
    """Return the `--sim-*` flags of an emulation that differ from the defaults: names with underscores, and values."""
    return {_PREFIX + name: str(value) for name, value in emulation.model_dump(exclude_defaults=True).items()}


def costs_path(emulation: Emulation) -> Path | None:
    """Return the path of the cost file; None for the zero-cost model."""
    return Path(emulation.costs) if emulation.costs else None


def _adapter_limits(given: dict[str, Any]) -> AdapterLimits | None:
    """Return the limits of LoRA adapters; None without `--enable-lora`.

    Raises:
        TopologyError: SGLang ends at such flags (arg_groups/lora_hook.py).
    """
    if not given["enable_lora"]:
        return None
    rank, targets = given["max_lora_rank"], given["lora_target_modules"]
    slots, loaded = given["max_loras_per_batch"], given["max_loaded_loras"]
    if not rank or not targets:
        raise TopologyError("--enable-lora", "needs `--max-lora-rank` and `--lora-target-modules`", "give both")
    if loaded is not None and loaded < slots:
        problem = f"is {loaded}, and `--max-loras-per-batch` is {slots}"
        raise TopologyError("--max-loaded-loras", problem, "give at least as many")
    return AdapterLimits(max_rank=rank, target_modules=accepted_targets(targets), slots=slots, max_loaded=loaded)


def _parser() -> argparse.ArgumentParser:
    # an abbreviation of one of SGLang's other flags must not match one of these flags
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.emulator.worker", allow_abbrev=False)
    parser.add_argument("--model-path", required=True, help="a directory, or any name")
    parser.add_argument("--disaggregation-mode", required=True, choices=("prefill", "decode"))
    parser.add_argument("--disaggregation-bootstrap-port", type=int, default=8998)
    parser.add_argument("--disaggregation-decode-enable-radix-cache", action="store_true")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-lora-rank", type=int)
    parser.add_argument("--lora-target-modules", nargs="*")
    parser.add_argument("--max-loras-per-batch", type=int, default=_SLOTS)
    parser.add_argument("--max-loaded-loras", type=int)
    for flag in _FLAGS:
        parser.add_argument("--" + flag.name.replace("_", "-"), type=flag.kind)
    for name, field in Emulation.model_fields.items():
        parser.add_argument("--sim-" + name.replace("_", "-"), help=f"default: {field.default}")
    return parser
