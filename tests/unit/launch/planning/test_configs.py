"""Every topology in `configs/` loads, has only flags that SGLang takes, and fits the GPUs that its comment states."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.bench.serving.peers.peer_file import load_peer_file
from sun_sglang.errors import IdentityError
from sun_sglang.launch.planning.flags.engine_flags import check_flags
from sun_sglang.launch.planning.flags.flag_schema import load_flag_schema
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.topology_file import load_topology
from sun_sglang.train.recipe import load_recipe

CONFIGS = Path(__file__).parents[4] / "configs"
PEERS = sorted((CONFIGS / "peers").glob("*.yaml"))
TOPOLOGIES = sorted(p for p in CONFIGS.rglob("*.yaml") if re.search(r"^pools:", p.read_text(), re.MULTILINE))
MODELS = ("llama-3.1-8b", "qwen3-8b")
PAPERS = [p for p in TOPOLOGIES if p.parent.name in MODELS]


def names(paths: list[Path]) -> list[str]:
    return [str(p.relative_to(CONFIGS)) for p in paths]


def gpus(count: int) -> Machine:
    found = tuple(Gpu(index=i, uuid=f"GPU-{i}", name="NVIDIA A100", memory_mb=81920) for i in range(count))
    return Machine(gpus=found, cores=64, memory=1 << 40, transfer_packages=frozenset({"nixl"}))


def test_both_models_have_every_system() -> None:
    files = [f"{model}/{system}.yaml" for model in MODELS for system in SYSTEMS]
    assert sorted(files) == names(PAPERS)


@pytest.mark.parametrize("file", TOPOLOGIES, ids=names(TOPOLOGIES))
def test_its_flags_are_sglangs(file: Path) -> None:
    topology = load_topology(file)
    schema = load_flag_schema()
    if schema is None:
        pytest.skip("SGLang is not installed")
    check_flags(topology.engines(), schema)


# workers by role, and the decode cache: stock where one model prefills and decodes, prompt-only elsewhere
SYSTEMS = {
    "sun": (4, 2, "sun_prompt_only"),
    "qsun": (4, 1, "sun_prompt_only"),
    "isolated": (4, 4, None),
    "prefillshare": (4, 4, "sun_prompt_only"),
}


@pytest.mark.parametrize("file", PAPERS, ids=names(PAPERS))
def test_a_papers_topology_takes_the_papers_gpus(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    prefill, decode, cache = SYSTEMS[file.stem]
    machine = gpus(prefill + decode)
    topology = load_topology(file)
    findings = preflight(topology, machine, None)
    plan = make_plan(topology, machine, findings.pools, run_dir=tmp_path, router_port=8000)
    assert [w.role for w in plan.workers].count("prefill") == prefill
    assert sorted(w.gpus for w in plan.workers) == [(i,) for i in range(prefill + decode)]
    backends = {
        w.argv[w.argv.index("--radix-cache-backend") + 1] if "--radix-cache-backend" in w.argv else None
        for w in plan.workers
        if w.role == "decode"
    }
    assert backends == {cache}
    assert all("--disaggregation-decode-enable-radix-cache" in w.argv for w in plan.workers if w.role == "decode")


@pytest.mark.parametrize("system", ["sun", "qsun", "prefillshare"])
def test_a_base_without_a_chat_template_pairs_with_what_was_tuned_with_one(
    write_checkpoint: Callable[..., Path], system: str
) -> None:
    topology = load_topology(CONFIGS / "llama-3.1-8b" / f"{system}.yaml")
    template = (CONFIGS / "train" / "plain.jinja").read_text()
    recipes = [load_recipe(p) for p in sorted((CONFIGS / "train" / "llama-3.1-8b").glob("*.yaml"))]
    assert {Path(recipe.chat_template or "").read_text() for recipe in recipes} == {template}
    pools = {
        name: pool.model_copy(
            update={"model": str(write_checkpoint(name, template=None if name == "base" else template))}
        )
        for name, pool in topology.pools.items()
    }
    local = topology.model_copy(update={"pools": pools})
    assert preflight(local, gpus(8), None).pools["base"].identity
    with pytest.raises(IdentityError, match=r"chat_template differs .*; set `chat_template` of `engine` for both"):
        preflight(local.model_copy(update={"engine": {"dtype": "bfloat16"}}), gpus(8), None)


SHARED_PREFILL = [p for p in TOPOLOGIES if p.stem == "prefillshare"]


@pytest.mark.parametrize("file", SHARED_PREFILL, ids=names(SHARED_PREFILL))
def test_a_shared_prefill_pool_of_several_workers_keeps_conversations_together(file: Path) -> None:
    topology = load_topology(file)
    (prefill,) = {task.prefill for task in topology.tasks.values()}
    assert len({task.decode for task in topology.tasks.values()}) == len(topology.tasks)
    assert topology.pools[prefill].replicas == 1 or topology.router.policy.prefill == "cache_affinity"


def test_the_emulated_systems_of_prefillshare_have_the_same_tasks_and_as_many_workers() -> None:
    shared, isolated = (
        load_topology(CONFIGS / "emulated" / "prefillshare" / f"{name}.yaml") for name in ("prefillshare", "isolated")
    )
    admission = load_topology(CONFIGS / "emulated" / "prefillshare" / "admission.yaml")
    assert list(shared.tasks) == list(isolated.tasks)
    assert shared.engine == isolated.engine
    assert shared.emulated.costs == isolated.emulated.costs
    uncapped = {name: task.model_copy(update={"max_tokens": None}) for name, task in admission.tasks.items()}
    assert (admission.pools, uncapped, admission.emulated) == (shared.pools, shared.tasks, shared.emulated)
    for role in ("prefill", "decode"):
        counts = [sum(p.replicas for p in t.pools.values() if p.role == role) for t in (shared, isolated)]
        assert counts == [4, 4]


@pytest.mark.parametrize("file", ["sun.yaml", "prefillshare.yaml"])
def test_the_demos_models_belong_together(file: str) -> None:
    topology = load_topology(CONFIGS / "demo" / file)
    findings = preflight(topology, Machine(cores=2, memory=1 << 34), None)
    identities = {name: pool.identity for name, pool in findings.pools.items()}
    assert all(identities.values())
    weights = {name: identity.weights for name, identity in identities.items() if identity}
    assert len(set(weights.values())) == 3, "three models, none of them a copy of another"


@pytest.mark.parametrize("file", PEERS, ids=names(PEERS))
def test_a_peer_file_loads_and_its_flags_are_sglangs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # adapters and models of `build/` are made by users
    monkeypatch.setattr("pathlib.Path.is_file", lambda _: True)
    peer = load_peer_file(file)
    schema = load_flag_schema()
    if schema is None:
        pytest.skip("SGLang is not installed")
    check_flags([("engine", peer.engine), *(("servers", server.engine) for server in peer.servers)], schema)
