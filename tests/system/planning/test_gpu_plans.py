"""The workers that `sun launch` would start on a machine with GPUs, resolved by SGLang itself on a faked one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.contracts.decode_cache import PROMPT_ONLY_BACKEND
from sun_sglang.launch.planning.flags.flag_schema import load_flag_schema
from tests.system.planning.cases import CASES, MODELS, make, workers
from tests.system.planning.faked_gpu import GPUS, install_nvidia_smi
from tests.system.planning.resolve import MARK

REPOSITORY = Path(__file__).parents[3]
# by how SGLang serves a dense model on each GPU, one sees that it took the fake for real
ATTENTION = {"a100": ("flashinfer", 1), "h100": ("fa3", 1), "b200": ("trtllm_mha", 64)}
# what the two sides of a KV transfer must have alike, where SGLang ends a server or mixes KV otherwise
ALIKE = ("page_size", "kv_cache_dtype", "dtype", "attention", "sliding_window", "state", "transfer")
# a decode cache with the state of a prompt's end would stay empty
UNCACHED = ("qwen3-next",)
# another GPU's kernel, and a flag that does not exist
REFUSED = {
    "attention": (["--attention-backend", "trtllm_mla"], "only supported on Blackwell"),
    "flag": (["--no-such-flag"], "SystemExit"),
}
Resolved = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> Resolved:
    """Resolve each case's two workers by SGLang, by case and role: one import, and a fork for each worker."""
    schema = load_flag_schema()
    if schema is None:
        pytest.skip("SGLang is not installed")
    directory = tmp_path_factory.mktemp("plans")
    asked = {}
    for name, case in CASES.items():
        for role, argv in workers(make(case, directory, schema), case.topology).items():
            asked[f"{name} {role}"] = {"gpu": case.gpu, "argv": argv}
    for name, (extra, _) in REFUSED.items():
        asked[f"refused {name}"] = {"gpu": "h100", "argv": [*asked["h100-llama decode"]["argv"], *extra]}
    install_nvidia_smi(directory / "bin", GPUS["h100"], count=1)
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.planning.resolve"],
        input=json.dumps(asked),
        env=os.environ | {"PATH": f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert lines, done.stderr[-3000:]
    return dict(json.loads(lines[-1].removeprefix(MARK)))


def sides(resolved: Resolved, case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a case's prefill and decode worker, neither of which SGLang refused."""
    prefill, decode = (resolved[f"{case} {role}"] for role in ("prefill", "decode"))
    assert "error" not in prefill, prefill["error"]
    assert "error" not in decode, decode["error"]
    return prefill, decode


@pytest.mark.parametrize("case", CASES)
def test_gpu_plan_resolves_alike_on_both_sides(resolved: Resolved, case: str) -> None:
    prefill, decode = sides(resolved, case)
    assert {key: prefill[key] for key in ALIKE} == {key: decode[key] for key in ALIKE}


@pytest.mark.parametrize("case", CASES)
def test_gpu_plan_has_none_of_the_cpus_settings(resolved: Resolved, case: str) -> None:
    for side in sides(resolved, case):
        assert side["device"] == "cuda"
        assert side["overlap"], "with the overlap schedule"
        assert side["dtype"] in ("torch.bfloat16", "torch.float16", "bfloat16", "float16"), "FA3 takes no other"
        assert "torch_native" not in side["attention"]
    assert sides(resolved, case)[1]["decode_graph"] == "full", "with CUDA graphs"


@pytest.mark.parametrize("model", MODELS)
def test_gpu_plan_keeps_answers_only_where_one_module_makes_all_kv(resolved: Resolved, model: str) -> None:
    _, shared = sides(resolved, f"h100-{model}")
    _, alone = sides(resolved, f"isolated-{model}")
    assert alone["cached"]
    assert alone["radix_cache_backend"] is None, "SGLang's own"
    assert shared["cached"] == (model not in UNCACHED)
    assert shared["radix_cache_backend"] == (None if model in UNCACHED else PROMPT_ONLY_BACKEND)


def test_gpu_plan_of_small_heads_takes_the_kernels_that_have_them(resolved: Resolved) -> None:
    for side in sides(resolved, "demo/sun.yaml"):
        assert side["attention"] == ["triton", "triton"]


@pytest.mark.parametrize("gpu", GPUS)
def test_faked_gpu_decides_what_sglang_chooses(resolved: Resolved, gpu: str) -> None:
    backend, page_size = ATTENTION[gpu]
    for side in sides(resolved, f"{gpu}-llama"):
        assert (side["attention"], side["page_size"]) == ([backend, backend], page_size)


@pytest.mark.parametrize("name", REFUSED)
def test_flag_that_sglang_refuses_on_the_gpu_is_an_error(resolved: Resolved, name: str) -> None:
    assert REFUSED[name][1] in resolved[f"refused {name}"]["error"]
