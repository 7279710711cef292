"""The cost model: seconds of a decode step, a prefill batch and a KV transfer, and the size of the KV cache. Pure.

Without a clock: the emulated worker spends these seconds in real time, a simulator in virtual time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from sun_sglang.errors import UserError
from sun_sglang.strict import Strict, YamlError, first_invalid, parse_yaml


class CostError(UserError):
    """A cost file cannot be read or has a wrong value; the message names the place."""


class CostModel(Strict):
    """Linear costs of one worker. All times are seconds. A context is the prompt and the answer so far, in tokens.

    Attributes:
        decode_step: constant part of one decode step (the weights are read once).
        decode_per_request: added for each request in the batch.
        decode_per_context_token: added for each token of context in the batch (its KV is read).
        prefill: constant part of one prefill batch.
        prefill_per_token: added for each prompt token that is computed; cached tokens cost nothing.
        prefill_per_token_squared: added for the square of each prompt's computed tokens (attention).
        lora_prefill: added to a prefill batch with a prompt that uses a LoRA adapter.
        lora_prefill_per_adapter: added for each different adapter in a prefill batch.
        lora_prefill_per_token: added for each computed token of a prompt that uses an adapter.
        lora_decode: added to a decode step with a request that uses an adapter on the decode worker.
        lora_decode_per_adapter: added for each different adapter in a decode step.
        lora_decode_per_request: added for each request of a decode step that uses an adapter.
        lora_load: time that a worker takes to read an adapter into host memory; it does nothing else meanwhile.
        lora_slot: time of the copy of an adapter from host memory into a slot, added to the batch that needs it.
        module_change: time of a change of modules on a prefill worker, which computes nothing meanwhile: the bytes of
            the weights over the bandwidth from host memory.
        module_load: time that a worker takes to read a module into host memory; its engine goes on.
        transfer: constant part of one KV transfer.
        transfer_per_byte: added for each byte of KV.
        kv_tokens: tokens of KV that fit, unless the flag `max_total_tokens` gives the number.
        max_prefill_tokens: most prompt tokens computed in one prefill batch; a longer prompt is alone in its batch.
    """

    decode_step: float = Field(default=0.0, ge=0)
    decode_per_request: float = Field(default=0.0, ge=0)
    decode_per_context_token: float = Field(default=0.0, ge=0)
    prefill: float = Field(default=0.0, ge=0)
    prefill_per_token: float = Field(default=0.0, ge=0)
    prefill_per_token_squared: float = Field(default=0.0, ge=0)
    lora_prefill: float = Field(default=0.0, ge=0)
    lora_prefill_per_adapter: float = Field(default=0.0, ge=0)
    lora_prefill_per_token: float = Field(default=0.0, ge=0)
    lora_decode: float = Field(default=0.0, ge=0)
    lora_decode_per_adapter: float = Field(default=0.0, ge=0)
    lora_decode_per_request: float = Field(default=0.0, ge=0)
    lora_load: float = Field(default=0.0, ge=0)
    lora_slot: float = Field(default=0.0, ge=0)
    module_change: float = Field(default=0.0, ge=0)
    module_load: float = Field(default=0.0, ge=0)
    transfer: float = Field(default=0.0, ge=0)
    transfer_per_byte: float = Field(default=0.0, ge=0)
    kv_tokens: int = Field(default=65536, ge=1)
    max_prefill_tokens: int = Field(default=16384, ge=1)

    def decode_seconds(self, requests: int, context_tokens: int, adapters: Iterable[str | None] = ()) -> float:
        """Return the seconds of one decode step.

        Args:
            requests: requests in the batch.
            context_tokens: their context in all.
            adapters: the adapter of each request, None where it uses none; nothing if no request uses one.
        """
        if not requests:
            return 0.0
        used = Counter(name for name in adapters if name is not None)
        lora = self.lora_decode + self.lora_decode_per_adapter * len(used) + self.lora_decode_per_request * used.total()
        plain = self.decode_step + self.decode_per_request * requests + self.decode_per_context_token * context_tokens
        return plain + (lora if used else 0.0)

    def prefill_seconds(self, computed: Sequence[int], adapters: Sequence[str | None] = ()) -> float:
        """Return the seconds of one prefill batch.

        Args:
            computed: uncached tokens of each prompt.
            adapters: the adapter of each prompt, None where it uses none; nothing if no prompt uses one.
        """
        if not computed:
            return 0.0
        squares = self.prefill_per_token_squared * sum(n * n for n in computed)
        plain = self.prefill + self.prefill_per_token * sum(computed) + squares
        used = {name for name in adapters if name is not None}
        if not used:
            return plain
        tokens = sum(n for n, name in zip(computed, adapters, strict=True) if name is not None)
        lora = self.lora_prefill + self.lora_prefill_per_adapter * len(used) + self.lora_prefill_per_token * tokens
        return plain + lora

    def transfer_seconds(self, size: int) -> float:
        """Return the seconds of the transfer of `size` bytes of KV."""
        return self.transfer + self.transfer_per_byte * size

    def slowed(self, factor: float) -> CostModel:
        """Return the cost model of a worker that takes `factor` times as long."""
        seconds = set(CostModel.model_fields) - {"kv_tokens", "max_prefill_tokens"}
        return self.model_copy(update={name: getattr(self, name) * factor for name in seconds})


def load_costs(path: Path) -> CostModel:
    """Return the cost model of a YAML or JSON file.

    Raises:
        CostError: the file cannot be read, or a value is wrong; names the first problem.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise CostError(f"{path}: cannot be read ({e.strerror or e})") from e
    except UnicodeDecodeError as e:
        raise CostError(f"{path}: not valid YAML: it is not UTF-8 text") from e
    except YamlError as e:
        raise CostError(e.describe(str(path))) from e
    try:
        return CostModel.model_validate(raw)
    except ValidationError as e:
        raise CostError(f"{path}: {first_invalid(e, CostModel).describe()}") from e
