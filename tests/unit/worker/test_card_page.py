"""A worker's card is computed before it serves, and again only after its weights changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.adapters_report import ADAPTERS_PATH, AdaptersReport, ColdLoads
from sun_sglang.contracts.decode_cache import ANSWER_STORE_FLAGS
from sun_sglang.errors import CheckpointError
from sun_sglang.files.shared_snapshot import SnapshotWriter
from sun_sglang.patches.lora.cold_loads import ADAPTERS_FILE_VARIABLE
from sun_sglang.patches.report_patches import PROOFS_KEY
from sun_sglang.worker import card_page
from sun_sglang.worker.adapters_page import AdaptersPage
from sun_sglang.worker.card_page import CardPage
from sun_sglang.worker.modules.page import ModulesPage
from sun_sglang.worker.server import add_routes

Write = Callable[..., Path]
DISK, TENSORS = "/update_weights_from_disk", "/update_weights_from_tensor"


class Engine:
    """SGLang's HTTP server module and the state that it serves from.

    Attributes:
        answers: status of each answer to an update of the weights.
        started: whether the card was there when SGLang's own start ran.
    """

    def __init__(self, model: Path) -> None:
        flags = self.flags = {
            "model_path": str(model),
            "tokenizer_path": str(model),
            "revision": None,
            "load_format": "auto",
            "disaggregation_mode": "decode",
            "disaggregation_decode_enable_radix_cache": False,
            "disable_radix_cache": False,
            "radix_cache_backend": None,
            "dp_size": 1,
            "max_loras_per_batch": 8,
            "max_loaded_loras": None,
            **dict.fromkeys(ANSWER_STORE_FLAGS, False),
        }
        self.config = {"load_format": "auto", "weight_version": "default"}
        self.manager = SimpleNamespace(
            model_path=str(model),
            server_args=SimpleNamespace(resolved_dict=flags.copy),
            tokenizer=object(),
            context_len=2048,
            gracefully_exit=False,
            config_value=self.config.__getitem__,
            _subprocess_watchdog=None,
        )
        proof = {"pid": 1, "patches": [{"name": "x", "target": "y", "state": "applied"}]}
        info = {"max_req_input_len": 2000, "max_total_num_tokens": 4096, PROOFS_KEY: [proof]}
        self.state = SimpleNamespace(tokenizer_manager=self.manager, scheduler_info=info)
        self.answers: list[int] = []
        self.started: bool | None = None
        self.page = CardPage("1.0")
        self.app = FastAPI(lifespan=self._lifespan)
        for path in (DISK, TENSORS):
            self.app.add_api_route(path, self._update, methods=["POST"])
        self.environ: dict[str, str] = {}
        module = SimpleNamespace(app=self.app, get_global_state=lambda: self.state)
        add_routes(module, self.page, AdaptersPage(self.environ), ModulesPage(self.environ))

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        self.started = self.page._card is not None
        yield

    def _update(self) -> Response:
        return Response(status_code=self.answers.pop(0))

    async def update(self, client: httpx.AsyncClient, path: str, *, status: int = 200, version: str = "") -> None:
        """Answer an update of the weights with a status; one that succeeds may set the version."""
        self.answers.append(status)
        self.config["weight_version"] = version or self.config["weight_version"]
        assert (await client.post(path)).status_code == status


@asynccontextmanager
async def served(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """Run the server's start, and ask it."""
    transport = httpx.ASGITransport(app=engine.app)
    async with (
        engine.app.router.lifespan_context(engine.app),
        httpx.AsyncClient(transport=transport, base_url="http://worker") as client,
    ):
        yield client


async def card(client: httpx.AsyncClient) -> dict[str, Any]:
    reply = await client.get("/sun/worker")
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def weights(client: httpx.AsyncClient) -> str:
    return str((await card(client))["identity"]["weights"])


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the model of each card that was computed."""
    models: list[str] = []
    original = card_page.read_card

    def counting(state: Any, *args: Any) -> Any:
        models.append(state.tokenizer_manager.model_path)
        return original(state, *args)

    monkeypatch.setattr(card_page, "read_card", counting)
    return models


async def test_card_is_computed_once_before_the_server_starts_and_by_no_probe(
    write_checkpoint: Write, computed: list[str]
) -> None:
    engine = Engine(write_checkpoint("a"))
    async with served(engine) as client:
        assert engine.started
        assert len(computed) == 1
        first = await card(client)
        assert [await card(client) for _ in range(20)] == [first] * 20
        assert len(computed) == 1


@pytest.mark.parametrize("disabled", [False, True])
async def test_card_states_whether_the_worker_keeps_prompts(write_checkpoint: Write, disabled: bool) -> None:
    engine = Engine(write_checkpoint("a"))
    engine.flags["disable_radix_cache"] = disabled
    async with served(engine) as client:
        assert (await card(client))["caches_prompts"] is not disabled


async def test_card_of_a_worker_that_was_told_to_end_is_leaving_without_being_computed(
    write_checkpoint: Write, computed: list[str]
) -> None:
    engine = Engine(write_checkpoint("a"))
    async with served(engine) as client:
        before = await card(client)
        engine.manager.gracefully_exit = True
        assert await card(client) == before | {"leaving": True}
        assert len(computed) == 1


async def test_card_after_weights_from_disk_has_their_revision_and_is_computed_once_for_all_probes(
    write_checkpoint: Write, computed: list[str]
) -> None:
    engine, other = Engine(write_checkpoint("a")), write_checkpoint("b", weights=b"other")
    async with served(Engine(other)) as client:
        expected = await weights(client)
    async with served(engine) as client:
        before = await weights(client)
        engine.manager.model_path = str(other)
        await engine.update(client, DISK)
        found = await asyncio.gather(*(weights(client) for _ in range(8)))
        assert found == [expected] * 8 != [before] * 8
        assert len(computed) == 3, "for the start of each server, and for the update"


async def test_card_after_an_update_that_failed_is_the_same_and_not_computed(
    write_checkpoint: Write, computed: list[str]
) -> None:
    engine = Engine(write_checkpoint("a"))
    async with served(engine) as client:
        before = await card(client)
        await engine.update(client, TENSORS, status=400)
        assert await card(client) == before
        assert len(computed) == 1


async def test_weights_from_tensors_are_known_by_their_version(write_checkpoint: Write) -> None:
    found, model = [], write_checkpoint("a")
    for version in ("7", "7", "8"):
        engine = Engine(model)
        async with served(engine) as client:
            found.append(await weights(client))
            await engine.update(client, TENSORS, version=version)
            found.append(await weights(client))
    start, seven, _, again, _, eight = found
    assert seven == again
    assert len({start, seven, eight}) == 3


async def test_weights_from_tensors_without_a_version_are_like_no_others(write_checkpoint: Write) -> None:
    found, model = [], write_checkpoint("a")
    for _ in range(2):
        engine = Engine(model)
        async with served(engine) as client:
            for _ in range(2):
                await engine.update(client, TENSORS)
                found.append(await weights(client))
    assert len(set(found)) == 4


async def test_weights_from_disk_after_weights_from_tensors_are_those_of_the_file(write_checkpoint: Write) -> None:
    engine = Engine(write_checkpoint("a"))
    async with served(engine) as client:
        before = await weights(client)
        await engine.update(client, TENSORS, version="7")
        assert await weights(client) != before
        await engine.update(client, DISK)
        assert await weights(client) == before


async def test_probe_after_an_update_to_a_checkpoint_that_cannot_be_read_names_it(write_checkpoint: Write) -> None:
    engine = Engine(write_checkpoint("a"))
    async with served(engine) as client:
        broken = write_checkpoint("b")
        (broken / "config.json").unlink()
        engine.manager.model_path = str(broken)
        await engine.update(client, DISK)
        reply = await client.get("/sun/worker")
        assert (reply.status_code, "config.json: not found" in reply.text) == (500, True)


async def test_server_whose_card_cannot_be_computed_does_not_start_and_states_why(write_checkpoint: Write) -> None:
    model = write_checkpoint("a")
    (model / "config.json").unlink()
    engine = Engine(model)
    with pytest.raises(CheckpointError):
        async with served(engine):
            pass
    assert engine.started is None
    with pytest.raises(CheckpointError, match=r"config\.json: not found"):
        engine.page.require_prepared()


async def test_card_of_a_worker_with_an_ended_process_is_an_error(write_checkpoint: Write) -> None:
    engine = Engine(write_checkpoint("a"))
    dead = SimpleNamespace(pid=1, exitcode=-9, is_alive=lambda: False)
    engine.manager._subprocess_watchdog = SimpleNamespace(_processes=[dead], _names=["scheduler_0"])
    async with served(engine) as client:
        reply = await client.get("/sun/worker")
        assert (reply.status_code, reply.text) == (503, "process scheduler_0 has ended")


async def test_card_counts_the_ranks_of_dp_attention_and_of_replicas(write_checkpoint: Write) -> None:
    engine = Engine(write_checkpoint("a"))
    flags = engine.manager.server_args.resolved_dict() | {"dp_size": 2, "attn_dp_size": 4}
    engine.manager.server_args.resolved_dict = flags.copy
    async with served(engine) as client:
        assert json.loads((await client.get("/sun/worker")).text)["dp_size"] == 8


async def test_kv_dtype_is_the_one_that_the_scheduler_resolved(write_checkpoint: Write) -> None:
    engine = Engine(write_checkpoint("model"))
    async with served(engine) as client:
        assert (await card(client))["identity"]["kv_cache_dtype"] == "auto"
    engine.state.scheduler_info[PROOFS_KEY][0]["kv_cache_dtype"] = "fp8_e4m3"
    async with served(engine) as client:
        assert (await card(client))["identity"]["kv_cache_dtype"] == "fp8_e4m3"


async def test_module_and_decoder_are_named_by_what_was_loaded(write_checkpoint: Write) -> None:
    record = {"base": "b", "decoder": "full", "first_token": "prefill"}
    engine = Engine(write_checkpoint("model", record=record))
    async with served(engine) as client:
        first = await card(client)
        assert (first["tuned_for"], first["identity"]["decoder"]) == ("", first["identity"]["weights"])
        await engine.update(client, TENSORS)
        assert (await card(client))["identity"]["decoder"] != first["identity"]["decoder"]
    engine.flags["disaggregation_mode"] = "prefill"
    engine.flags["disaggregation_bootstrap_port"] = 9000
    async with served(engine) as client:
        assert (await card(client))["tuned_for"] == "full"


async def test_card_of_a_module_by_another_trainer_names_its_decoder(write_checkpoint: Write) -> None:
    record = {"base": "b", "decoder": "d", "first_token": "prefill", "scheme": "half", "learning_rate": "1e-5 to 0"}
    engine = Engine(write_checkpoint("model", record=record))
    engine.flags |= {"disaggregation_mode": "prefill", "disaggregation_bootstrap_port": 9000}
    async with served(engine) as client:
        assert (await card(client))["tuned_for"] == "d"


@pytest.mark.parametrize("mode", ["prefill", "decode"])
async def test_card_of_a_module_tuned_for_a_decode_first_token_says_so(write_checkpoint: Write, mode: str) -> None:
    record = {"base": "b", "decoder": "d", "first_token": "decode"}
    engine = Engine(write_checkpoint("model", record=record))
    engine.flags |= {"disaggregation_mode": mode, "disaggregation_bootstrap_port": 9000}
    async with served(engine) as client:
        assert (await card(client))["first_token"] == "decode"


async def test_card_of_a_decode_module_names_the_prefill_weights_it_was_tuned_on(write_checkpoint: Write) -> None:
    model = write_checkpoint("model")
    record = {"base": "b", "decoder": weights_revision(model), "first_token": "decode"}
    (model / "sun.json").write_text(json.dumps(record))
    engine = Engine(model)
    async with served(engine) as client:
        assert (await card(client))["tuned_on"] == "b"
    engine.flags |= {"disaggregation_mode": "prefill", "disaggregation_bootstrap_port": 9000}
    async with served(engine) as client:
        assert (await card(client))["tuned_on"] == ""


async def test_card_has_the_limits_of_adapters_that_a_scheduler_reported(write_checkpoint: Write) -> None:
    engine = Engine(write_checkpoint("model"))
    proof = engine.state.scheduler_info[PROOFS_KEY][0]
    proof |= {"lora_rank": 16, "lora_targets": ["embed_tokens", "o_proj", "qkv_proj"]}
    async with served(engine) as client:
        assert (await card(client))["adapters"] == {
            "max_rank": 16,
            "target_modules": ["k_proj", "o_proj", "q_proj", "qkv_proj", "v_proj"],
            "slots": 8,
            "max_loaded": None,
        }


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (16, 2)])
async def test_card_of_a_worker_that_loads_no_adapters_has_no_limits(
    write_checkpoint: Write, rank: int, ranks: int
) -> None:
    engine = Engine(write_checkpoint("model"))
    engine.state.scheduler_info[PROOFS_KEY][0] |= {"lora_rank": rank, "lora_targets": ["o_proj"]}
    engine.flags["dp_size"] = ranks
    async with served(engine) as client:
        assert (await card(client))["adapters"] is None


async def test_page_of_adapters_is_what_the_scheduler_wrote(write_checkpoint: Write) -> None:
    engine = Engine(write_checkpoint("model"))
    async with served(engine) as client:
        assert (await client.get(ADAPTERS_PATH)).json() == {"resident": [], "cold": {}}
        report = AdaptersReport(resident=("sun-a",), cold={"sun-a": ColdLoads(loads=2, seconds=0.5)})
        SnapshotWriter(engine.environ[ADAPTERS_FILE_VARIABLE]).write(report.model_dump_json().encode())
        reply = await client.get(ADAPTERS_PATH)
        assert AdaptersReport.model_validate(reply.json()) == report
        assert reply.headers["content-type"] == "application/json"
