"""What an engine's work takes: seconds of a decode step, of a prefill, of a KV transfer, and how much KV fits.

Pure, and without a clock: the emulated worker spends these seconds in real time, a simulator in virtual time.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from sun_sglang.errors import UserError
from sun_sglang.strict import Strict, YamlError, first_invalid, parse_yaml


class CostError(UserError):
    """A cost file cannot be read or is wrong; the message names the place."""


class CostModel(Strict):
    """Linear costs of one worker. All times are seconds; a context is prompt and answer so far, in tokens.

    Attributes:
        decode_step: seconds of one decode step, whatever is in the batch (weights are read once).
        decode_per_request: seconds more for each request of the batch.
        decode_per_context_token: seconds more for each token of context in the batch (its KV is read).
        prefill: seconds of one prefill batch, whatever is in it.
        prefill_per_token: seconds more for each prompt token that is computed; cached ones cost nothing.
        prefill_per_token_squared: seconds more for the square of each prompt's computed tokens (attention).
        transfer: seconds of one KV transfer, whatever its size.
        transfer_per_byte: seconds more for each byte of KV.
        kv_tokens: tokens of KV that fit, where the worker's flags do not say (`max_total_tokens`).
        max_prefill_tokens: prompt tokens computed in one prefill batch at most; a longer prompt is alone in its batch.
    """

    decode_step: float = Field(default=0.0, ge=0)
    decode_per_request: float = Field(default=0.0, ge=0)
    decode_per_context_token: float = Field(default=0.0, ge=0)
    prefill: float = Field(default=0.0, ge=0)
    prefill_per_token: float = Field(default=0.0, ge=0)
    prefill_per_token_squared: float = Field(default=0.0, ge=0)
    transfer: float = Field(default=0.0, ge=0)
    transfer_per_byte: float = Field(default=0.0, ge=0)
    kv_tokens: int = Field(default=65536, ge=1)
    max_prefill_tokens: int = Field(default=16384, ge=1)

    def decode_seconds(self, requests: int, context_tokens: int) -> float:
        """One decode step over `requests` with `context_tokens` of context in all."""
        if not requests:
            return 0.0
        return self.decode_step + self.decode_per_request * requests + self.decode_per_context_token * context_tokens

    def prefill_seconds(self, computed: list[int]) -> float:
        """One prefill batch; `computed` holds each prompt's tokens without the cached ones."""
        if not computed:
            return 0.0
        squares = self.prefill_per_token_squared * sum(n * n for n in computed)
        return self.prefill + self.prefill_per_token * sum(computed) + squares

    def transfer_seconds(self, size: int) -> float:
        """Handing over `size` bytes of KV."""
        return self.transfer + self.transfer_per_byte * size

    def slowed(self, factor: float) -> CostModel:
        """The same worker, `factor` times as slow."""
        seconds = set(CostModel.model_fields) - {"kv_tokens", "max_prefill_tokens"}
        return self.model_copy(update={name: getattr(self, name) * factor for name in seconds})


def load_costs(path: Path) -> CostModel:
    """Read a cost file, YAML or JSON.

    Raises:
        CostError: the first thing wrong.
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
