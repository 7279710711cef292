"""Cost models of the GPUs and models that AIConfigurator has measured (extra `plan`).

AIConfigurator adds up the measured times of a step's operations. Its times over a grid of batches are fitted by the
linear cost model, with equal weight to each relative error; the fit's error is reported.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sun_sglang.plan.outcome import PlanError
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.strict import listed, parse_yaml

BACKEND: Final = "sglang"
MEMORY_FRACTION: Final = 0.9
"""The part of a GPU's memory that weights and KV take."""
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (256, 512, 1024, 2048, 4096, 8192)
_SHAPE = {
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
}
# architectures whose layers are all full attention and a dense MLP, for which the formula of the weights holds
_DENSE = {"llama", "mistral", "qwen2", "qwen3"}
_PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class FitError:
    """The relative error of a fit over its grid, as a part of 1."""

    mean: float
    most: float


@dataclass(frozen=True)
class FittedCosts:
    """A cost model and its errors.

    Attributes:
        gpu: the GPU, as AIConfigurator names it.
        model: the model.
        costs: the cost model.
        decode: the error of the decode steps.
        prefill: the error of the prefill batches.
    """

    gpu: str
    model: str
    costs: CostModel
    decode: FitError
    prefill: FitError

    def describe(self) -> str:
        """Return the source and the errors as text."""
        errors = f"mean {100 * self.decode.mean:.1f} %, largest {100 * self.decode.most:.0f} %"
        return f"AIConfigurator, {self.model} on {self.gpu} (linear fit of decode steps: {errors})"


def fit_costs(gpu: str, model: str, tp: int = 1) -> FittedCosts:
    """Return the cost model of a worker.

    Args:
        gpu: a GPU, such as `h100_sxm`; `h100` is the first that begins so.
        model: a model that AIConfigurator knows.
        tp: GPUs of a worker (tensor parallel).

    Raises:
        PlanError: the extra is missing, or the GPU or the model is not known; the message lists the known ones.
    """
    package = _package()
    system, name = _find_gpu(gpu), _find_model(model)
    kv_tokens = _kv_tokens(package, name, system, tp)
    try:
        engine = _compile(name, system, tp)
        decode = _decode_grid(engine.predict_decode_latency, kv_tokens)
        prefill = _prefill_grid(engine.predict_prefill_latency)
    except Exception as e:
        # GPUs without data for the backend, and shapes that do not divide by `tp`
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise PlanError(f"--gpu: AIConfigurator has no step times of {name} on {system} with tp {tp}: {reason}") from e
    (base, request, context), decode_error = decode
    (start, token, square), prefill_error = prefill
    costs = CostModel(
        decode_step=base,
        decode_per_request=request,
        decode_per_context_token=context,
        prefill=start,
        prefill_per_token=token,
        prefill_per_token_squared=square,
        kv_tokens=kv_tokens,
    )
    return FittedCosts(system, name, costs, decode_error, prefill_error)


def known_gpus() -> list[str]:
    """Return the names of the GPUs that AIConfigurator describes."""
    systems = _package() / "systems"
    return sorted(file.stem for file in systems.glob("*.yaml") if (systems / "data" / file.stem).is_dir())


def known_models() -> list[str]:
    """Return the names of the models whose step times and KV are computed: dense ones with weights of 16 bits."""
    ending = "_config.json"
    files = list((_package() / "model_configs").glob(f"*{ending}"))
    quantized = {
        file.name.removesuffix(f"_hf_quant{ending}") for file in files if file.name.endswith(f"_hf_quant{ending}")
    }
    names = (file.name.removesuffix(ending) for file in files if _is_dense(json.loads(file.read_text())))
    return sorted(name.replace("--", "/") for name in names if name not in quantized)


def _is_dense(shape: dict[str, Any]) -> bool:
    whole = all(shape.get(key) for key in _SHAPE)
    return whole and shape.get("model_type") in _DENSE and "quantization_config" not in shape


def _package() -> Path:
    try:
        module = importlib.import_module("aiconfigurator_core")
        importlib.import_module("numpy")
    except ImportError as e:
        raise PlanError("--gpu needs AIConfigurator: pip install 'sun-sglang[plan]'") from e
    assert module.__file__ is not None
    return Path(module.__file__).parent


def _find_gpu(gpu: str) -> str:
    known = known_gpus()
    name = gpu.lower().replace("-", "_")
    found = [one for one in known if one == name] or [one for one in known if one.startswith(name + "_")]
    if not found:
        raise PlanError(f"--gpu: unknown GPU `{gpu}`; known: {listed(known)}")
    # of h100_pcie and h100_sxm, the latter is what `h100` means
    return next((one for one in found if one.endswith("sxm")), found[0])


def _find_model(model: str) -> str:
    known = known_models()
    wanted = _plain(model)
    for name in known:
        if _plain(name) == wanted:
            return name
    known_names = f"{listed(known)} (dense models with weights of 16 bits)"
    raise PlanError(f"--model: unknown model `{model}`; known: {known_names}; for others give --costs")


def _plain(model: str) -> str:
    """Return a model's name without what differs between names of equal shapes."""
    name = model.rsplit("/", 1)[-1].lower().removeprefix("meta-")
    for ending in ("-instruct", "-base", "-chat"):
        name = name.removesuffix(ending)
    return name


def _compile(model: str, system: str, tp: int) -> Any:
    engine = importlib.import_module("aiconfigurator_core.sdk.engine")
    before = logging.root.manager.disable
    # it warns of measurements of other engines that it does not use here
    logging.disable(logging.ERROR)
    try:
        return engine.EngineHandle.compile(model, system, BACKEND, tp_size=tp)
    finally:
        logging.disable(before)


def _decode_grid(latency: Callable[[int, int, int], float], kv_tokens: int) -> tuple[Sequence[float], FitError]:
    points = [(batch, context) for batch in _BATCHES for context in _CONTEXTS if batch * context <= kv_tokens]
    # the step of an answer's first token; two tokens are its shortest answer
    times = [latency(batch, context, 2) / 1000 for batch, context in points]
    return _fit([(1.0, float(batch), float(batch * context)) for batch, context in points], times)


def _prefill_grid(latency: Callable[[int, int, int], float]) -> tuple[Sequence[float], FitError]:
    times = [latency(1, prompt, 0) / 1000 for prompt in _PROMPTS]
    return _fit([(1.0, float(prompt), float(prompt) ** 2) for prompt in _PROMPTS], times)


def _fit(rows: Sequence[tuple[float, ...]], times: Sequence[float]) -> tuple[Sequence[float], FitError]:
    """Return the coefficients, none below 0, and their error: least squares of the relative errors."""
    import numpy as np

    matrix, target = np.array(rows), np.array(times)
    weighted = matrix / target[:, None]
    kept = list(range(matrix.shape[1]))
    while True:
        found = np.linalg.lstsq(weighted[:, kept], np.ones(len(target)), rcond=None)[0]
        if (found >= 0).all():
            break
        del kept[int(np.argmin(found * np.linalg.norm(weighted[:, kept], axis=0)))]
    coefficients = np.zeros(matrix.shape[1])
    coefficients[kept] = found
    errors = np.abs(weighted @ coefficients - 1)
    return [float(value) for value in coefficients], FitError(float(errors.mean()), float(errors.max()))


def _kv_tokens(package: Path, model: str, system: str, tp: int) -> int:
    """Return the tokens of KV of a worker with weights of 16 bits.

    Raises:
        PlanError: the weights do not fit.
    """
    shape = json.loads((package / "model_configs" / f"{model.replace('/', '--')}_config.json").read_text())
    gpu = parse_yaml((package / "systems" / f"{system}.yaml").read_text())
    assert isinstance(gpu, dict)
    memory = MEMORY_FRACTION * gpu["gpu"]["mem_capacity"] * tp
    layers, hidden, inner = shape["num_hidden_layers"], shape["hidden_size"], shape["intermediate_size"]
    heads, kv_heads, vocab = shape["num_attention_heads"], shape["num_key_value_heads"], shape["vocab_size"]
    head = shape.get("head_dim") or hidden // heads
    attention = hidden * head * (2 * heads + 2 * kv_heads)
    embeddings = vocab * hidden * (1 if shape.get("tie_word_embeddings") else 2)
    weights = 2 * (layers * (attention + 3 * hidden * inner) + embeddings)
    tokens = int((memory - weights) / (4 * layers * kv_heads * head))
    if tokens < 1:
        raise PlanError(f"--gpu: the weights of {model} do not fit into {tp} x {system}; set `engine.tp_size`")
    return tokens
