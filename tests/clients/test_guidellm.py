"""A short benchmark with `guidellm`, which streams chat completions."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import httpx

from tests.clients.running import ROOT, run_client

REQUESTS, ANSWER = 8, 16


def test_guidellm_benchmark(url: str, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("guidellm")),
        "run",
        f"--backend=kind=openai_http,target={url},model=math,request_format=/v1/chat/completions",
        "--profile=kind=concurrent,streams=2",
        f"--constraint=kind=max_requests,count={REQUESTS}",
        f"--tokenizer=kind=huggingface_auto,model={ROOT / 'configs/demo/models/math'}",
        f"--data=kind=synthetic_text,prompt_tokens=64,output_tokens={ANSWER}",
        "--output=kind=json,path=report.json",
        "--disable-progress",
    ]
    before = served(url)
    run_client(command, timeout=200, cwd=tmp_path)
    assert served(url) - before == REQUESTS
    (benchmark,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert (requests["errored"] or [], requests["incomplete"] or []) == ([], [])
    # not always all: on a busy machine guidellm stops before it has read what its own processes report
    assert requests["successful"]
    for request in requests["successful"]:
        assert request["output_tokens"] == ANSWER
        assert request["prompt_tokens"] >= 64
        assert 0 < request["time_to_first_token_ms"] < 1000 * request["request_latency"]


def served(url: str) -> float:
    """Return the number of requests of the task `math` that the router has answered."""
    metrics = httpx.get(f"{url}/metrics").text
    return sum(
        float(count) for count in re.findall(r'^sun_requests_total{outcome="ok",task="math"} (.+)$', metrics, re.M)
    )
