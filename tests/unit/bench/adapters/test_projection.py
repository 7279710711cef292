"""The simulated systems with adapters, and costs that are fitted to runs."""

from __future__ import annotations

import math

import pytest

from sun_sglang.bench.adapters.fitting import Measured, fit_costs, relative_errors
from sun_sglang.bench.adapters.projection import SYSTEMS, check, project, sensitivity
from sun_sglang.bench.adapters.simulated_load import Load, Outcome, simulate
from sun_sglang.bench.adapters.simulated_systems import AdapterServer, SunWorkers
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import Ended, Token

COSTS = CostModel(
    decode_step=0.1,
    decode_per_request=0.01,
    lora_decode_per_adapter=0.05,
    prefill=0.2,
    lora_prefill_per_adapter=0.1,
    transfer=0.05,
)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("clients", [1, 3])
def test_every_request_gets_its_tokens_in_order_and_ends_once(system: str, clients: int) -> None:
    running = SYSTEMS[system](COSTS, Load(2, 0.0, clients, 32, 4))
    for i in range(6):
        running.submit(str(i), 32, 4, str(i % 2))
    events, now = running.step(0.0), 0.0
    while running.due is not None:
        now = running.due
        events += running.step(now)
    for i in range(6):
        assert [e.made for e in events if isinstance(e, Token) and e.rid == str(i)] == [1, 2, 3, 4]
        assert [type(e) for e in events if e.rid == str(i)][-1] is Ended


def test_one_client_pays_the_costs_of_one_request() -> None:
    load = Load(tasks=8, zipf=0.0, clients=1, prompt=32, answer=5)
    server, sun = (simulate(SYSTEMS[name](COSTS, load), load, requests=20) for name in ("multi_lora", "sun"))
    assert server.gap_ms == pytest.approx(160)
    assert server.ttft_ms == pytest.approx(300)
    assert server.tokens_per_s == pytest.approx(5 / (0.3 + 4 * 0.16))
    assert sun.gap_ms == pytest.approx(110)
    assert sun.ttft_ms == pytest.approx(350)


def test_server_runs_waiting_prompts_before_the_next_step_and_sun_does_not_wait_for_them() -> None:
    server = AdapterServer(COSTS)
    server.submit("a", 32, 3, "x")
    server.step(0.0)
    assert server.due is not None
    server.step(server.due)
    assert server.due == pytest.approx(0.46), "a step with one request of one adapter"
    server.submit("b", 32, 3, "y")
    server.step(server.due)
    assert server.due == pytest.approx(0.76), "the prompt, and no token meanwhile"
    sun = SunWorkers(COSTS, slots=3)
    sun.submit("a", 32, 3, "x")
    sun.step(0.0)
    for _ in ("prefill", "transfer"):
        assert sun.due is not None
        sun.step(sun.due)
    sun.submit("b", 32, 3, "y")
    sun.step(0.35)
    assert sun.due == pytest.approx(0.46), "the next token, while the prompt runs"


def test_more_adapters_in_a_batch_cost_the_server_time_and_suns_decoder_none() -> None:
    few, many = (Load(tasks, 0.0, 8, 32, 16) for tasks in (1, 512))
    for name, least, most in (("sun", 0.99, 1.01), ("multi_lora", 2.0, 4.0)):
        gaps = [simulate(SYSTEMS[name](COSTS, load), load).gap_ms for load in (few, many)]
        assert least < gaps[1] / gaps[0] < most
    costs = dict.fromkeys(SYSTEMS, COSTS)
    assert project(costs, many).values["throughput_ratio"] > project(costs, few).values["throughput_ratio"]
    found = sensitivity(costs, many, "multi_lora", "lora_decode_per_adapter")
    assert found.values["low"] < project(costs, many).values["throughput_ratio"] < found.values["high"]


def test_fit_finds_the_costs_that_made_the_runs() -> None:
    true = CostModel(decode_step=0.1, lora_decode_per_adapter=0.05, prefill=0.2)
    loads = [Load(tasks, 0.0, clients, 32, 8) for tasks in (1, 8) for clients in (2, 8)]
    runs = [Measured(load, simulate(AdapterServer(true), load)) for load in loads]
    start = {"decode_step": 0.06, "lora_decode_per_adapter": 0.1, "prefill": 0.1}
    found = fit_costs(SYSTEMS["multi_lora"], start, runs)
    for key in start:
        assert getattr(found, key) == pytest.approx(getattr(true, key), rel=0.1)
    for run in runs:
        assert max(map(abs, relative_errors(simulate(AdapterServer(found), run.load), run))) < 0.1


def test_error_is_relative_and_shown_in_percent() -> None:
    load = Load(tasks=1, zipf=0.0, clients=1, prompt=32, answer=5)
    seen = simulate(AdapterServer(COSTS), load)
    half = Measured(load, Outcome(2 * seen.tokens_per_s, seen.gap_ms, seen.ttft_ms))
    assert check("multi_lora", COSTS, half).values["tokens_per_s_error"] == pytest.approx(-100 * math.log(2), abs=0.1)
