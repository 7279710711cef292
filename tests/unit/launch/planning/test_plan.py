import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.contracts.fleet_file import FleetPool, FleetTask
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import TopologyError, UserError
from sun_sglang.launch.places.command import command_at
from sun_sglang.launch.places.place import Address
from sun_sglang.launch.planning.flags.flag_schema import FlagSchema
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.hardware.rdma import RdmaDevice
from sun_sglang.launch.planning.plan import LaunchPlan, WorkerPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.launch.planning.pools import Checkpoint, resolve_pools
from sun_sglang.launch.planning.worker_kinds.cpu_kv_memory import cpu_kv_tokens
from sun_sglang.launch.planning.worker_kinds.worker_kind import WorkerKind
from sun_sglang.topology import EngineFlags, Topology
from sun_sglang.topology_file import parse_topology

SUN = """
pools:
  base: {role: decode, model: base-model, replicas: 2}
  math: {role: prefill, model: math-model, revision: v1}
  tool: {role: prefill, model: tool-model}
tasks:
  math: {prefill: math, decode: base}
  tool: {prefill: tool, decode: base}
"""
LAPTOP = Machine(cores=8, memory=16 << 30, transfer_packages=frozenset({"mooncake"}))


def gpu_machine(count: int, **fields: Any) -> Machine:
    gpus = tuple(Gpu(index=i, uuid=f"GPU-{i}", name="NVIDIA H200", memory_mb=143771) for i in range(count))
    return Machine(**{"gpus": gpus, "cores": 64, "memory": 1 << 40, "transfer_packages": frozenset({"nixl"}), **fields})


def topology(text: str = SUN, engine: str = "{}") -> Topology:
    return parse_topology(f"{text}\nengine: {engine}", base=Path())


def plan(
    topology: Topology,
    machine: Machine = LAPTOP,
    identities: dict[str, Identity | None] | None = None,
    schema: FlagSchema | None = None,
) -> LaunchPlan:
    known = identities or {}

    def read(_kind: WorkerKind, pool: PoolSettings, _flags: EngineFlags) -> Checkpoint | None:
        found = known.get(pool.name)
        return Checkpoint(found) if found else None

    pools = resolve_pools(topology, machine, read)
    port = topology.router.port or 31000
    return make_plan(topology, machine, pools, run_dir=Path("/run"), router_port=port, schema=schema)


def flags(worker: WorkerPlan) -> dict[str, str]:
    """Return a worker's arguments as a dictionary; a bare flag has the value ``."""
    pairs: dict[str, str] = {}
    for argument in worker.argv:
        if argument.startswith("--"):
            key = argument
            pairs[key] = ""
        else:
            pairs[key] = argument
    return pairs


def identity(weights: str = "w", **fields: Any) -> Identity:
    base = {
        "architecture": "LlamaForCausalLM",
        "num_layers": 2,
        "num_kv_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
        "rope": "{}",
        "kv_dtype": "float32",
        "page_size": 0,
        "tp_size": 1,
        "tokenizer": "t",
        "chat_template": "c",
        "sglang": "1.0",
        "weights": weights,
    }
    return Identity(**{**base, **fields})


def test_every_replica_is_a_worker() -> None:
    found = plan(topology())
    assert [w.name for w in found.workers] == ["base-0", "base-1", "math-0", "tool-0"]
    assert [w.role for w in found.workers] == ["decode", "decode", "prefill", "prefill"]
    assert {w.threads for w in found.workers} == {2}
    assert found.workers[3].log == Path("/run/logs/tool-0.log")


def test_a_prefill_worker_on_the_cpu() -> None:
    assert flags(plan(topology()).workers[2]) == {
        "--model-path": "math-model",
        "--revision": "v1",
        "--served-model-name": "math",
        "--disaggregation-mode": "prefill",
        "--enable-cache-report": "",
        "--disaggregation-transfer-backend": "mooncake_tcp",
        "--dtype": "float32",
        "--device": "cpu",
        "--attention-backend": "torch_native",
        "--cuda-graph-backend-decode": "disabled",
        "--cuda-graph-backend-prefill": "disabled",
        "--disable-overlap-schedule": "",
        "--sleep-on-idle": "",
        "--max-total-tokens": "16384",
    }


def test_copies_of_a_model_in_one_worker_get_ports_of_their_own_from_sglang() -> None:
    assert not plan(topology(SUN, "{dp_size: 2}")).workers[2].needs_nccl_port
    assert plan(topology()).workers[2].needs_nccl_port


@pytest.mark.parametrize(
    ("engine", "ranks"),
    [
        ("{}", 1),
        ("{tp_size: 2}", 2),
        ("{tp_size: 2, pp_size: 2, dp_size: 2}", 8),
        ("{tp_size: 2, dp_size: 2, enable_dp_attention: true}", 2),
    ],
)
def test_ranks_without_gpus_are_each_given_cores(engine: str, ranks: int) -> None:
    name = "SGLANG_CPU_OMP_THREADS_BIND"
    assert plan(topology(SUN, engine)).workers[0].env.get(name) == ("|".join(["0-7"] * ranks) if ranks > 1 else None)
    assert name not in plan(topology(SUN, engine), gpu_machine(64)).workers[0].env


@pytest.mark.parametrize("key", ["tp_size", "pp_size", "dp_size"])
@pytest.mark.parametrize("size", ["-1", "1.5", "x", "true", "1000000000000"])
@pytest.mark.parametrize("machine", [LAPTOP, gpu_machine(4)])
def test_number_of_ranks_that_is_none_is_refused(key: str, size: str, machine: Machine) -> None:
    with pytest.raises(TopologyError, match=rf"^engine\.{key}: must be a whole number from 1 to 1024"):
        plan(topology(engine=f"{{{key}: {size}}}"), machine)


def test_a_decode_worker_on_a_gpu() -> None:
    worker = plan(topology(), gpu_machine(4)).workers[1]
    assert flags(worker) == {
        "--model-path": "base-model",
        "--served-model-name": "base",
        "--disaggregation-mode": "decode",
        "--enable-cache-report": "",
        "--disaggregation-transfer-backend": "nixl",
        "--disaggregation-decode-enable-radix-cache": "",
        "--radix-cache-backend": "sun_prompt_only",
    }
    assert worker.env["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_decode_worker_on_the_cpu_backs_up_without_cuda() -> None:
    assert flags(plan(topology()).workers[0])["--disaggregation-decode-retraction-backup"] == "cpu_tensor"


def test_the_router_is_told_everything() -> None:
    found = plan(topology())
    assert found.router.url == "http://127.0.0.1:8000"
    assert found.fleet.tasks["tool"] == FleetTask(prefill="tool", decode="base")
    assert found.fleet.pools["math"] == FleetPool(role="prefill", model="math-model")
    assert found.fleet.workers == (), "their addresses come from the place"
    assert found.fleet.router.port == 8000


def test_port_zero_takes_a_free_port() -> None:
    found = plan(topology(SUN + "router: {port: 0, host: 0.0.0.0}"))
    assert found.router.port == found.fleet.router.port == 31000
    assert found.router.url == "http://127.0.0.1:31000"


@pytest.mark.parametrize(
    ("engine", "flag", "value"),
    [
        ("{dtype: bfloat16}", "--dtype", "bfloat16"),
        ("{attention_backend: flex_attention}", "--attention-backend", "flex_attention"),
        ("{max_total_tokens: 999}", "--max-total-tokens", "999"),
        ("{disaggregation_transfer_backend: nixl}", "--disaggregation-transfer-backend", "nixl"),
        ("{tensor_parallel_size: 1}", "--tp-size", "1"),
        ("{enable_cache_report: false}", "--enable-cache-report", None),
        ("{attention_backend: null}", "--attention-backend", None),
        ("{disable_radix_cache: true}", "--radix-cache-backend", None),
        ("{disable_radix_cache: true}", "--disaggregation-decode-enable-radix-cache", None),
        ("{disaggregation_decode_enable_radix_cache: false}", "--radix-cache-backend", None),
        ("{radix_cache_backend: null}", "--disaggregation-decode-enable-radix-cache", ""),
        ("{radix_cache_backend: null}", "--radix-cache-backend", None),
        ("{speculative_algorithm: EAGLE}", "--disaggregation-decode-enable-radix-cache", None),
    ],
)
def test_a_users_flag_wins(engine: str, flag: str, value: str | None) -> None:
    assert flags(plan(topology(engine=engine)).workers[0]).get(flag) == value


EAGLE = "{speculative_algorithm: EAGLE}"


@pytest.mark.parametrize(
    ("taken", "cache"), [((), None), (("DSPARK",), None), (("DSPARK", "EAGLE"), "sun_prompt_only")]
)
def test_decode_cache_beside_a_speculative_algorithm_is_as_the_installed_sglang_takes_it(
    taken: tuple[str, ...], cache: str | None
) -> None:
    schema = FlagSchema(version="1", flags=(), speculative_with_cache=taken)
    found = plan(topology(engine=EAGLE), schema=schema)
    decode = flags(found.workers[0])
    assert decode.get("--radix-cache-backend") == cache
    assert ("--disaggregation-decode-enable-radix-cache" in decode) == (cache is not None)
    said = "Pool `base` has no decode cache: SGLang cannot combine it with `speculative_algorithm: EAGLE`."
    assert found.notes == (() if cache else (said,))


@pytest.mark.parametrize(
    ("engine", "note"),
    [
        ("{}", None),
        ("{disable_radix_cache: true}", None),
        (
            "{enable_hisparse: true}",
            "Pool `base` has no decode cache: SGLang cannot combine it with `enable_hisparse`.",
        ),
        (
            "{disaggregation_decode_allocation_policy: prefill_complete}",
            "Pool `base` has no decode cache: SGLang cannot combine it with "
            "`disaggregation_decode_allocation_policy: prefill_complete`.",
        ),
        ("{disaggregation_decode_allocation_policy: early}", None),
        ("{radix_cache_backend: null}", "Pool `base` sets `radix_cache_backend` itself: "),
    ],
)
def test_a_setting_that_changes_the_cache_is_noted(engine: str, note: str | None) -> None:
    notes = plan(topology(engine=engine)).notes
    assert [n.startswith(note or "?") for n in notes] == ([True] if note else [])


@pytest.mark.parametrize(
    "architecture",
    [
        "DeepseekV4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "MiMoV2FlashForCausalLM",
        "InklingForConditionalGeneration",
    ],
)
@pytest.mark.parametrize("tuned", [True, False])
def test_decode_cache_of_an_architecture_that_sglang_refuses_is_left_out_with_a_note(
    architecture: str, tuned: bool
) -> None:
    pools = {
        n: identity("base" if n == "base" or not tuned else n, architecture=architecture) for n in topology().pools
    }
    found = plan(topology(), identities=pools)
    assert not {"--disaggregation-decode-enable-radix-cache", "--radix-cache-backend"} & flags(found.workers[0]).keys()
    assert found.notes == (
        f"Pool `base` has no decode cache: SGLang cannot combine it with the architecture `{architecture}`.",
    )


@pytest.mark.parametrize(
    "architecture",
    ["DeepseekV3ForCausalLM", "Gemma3ForConditionalGeneration", "GptOssForCausalLM", "Qwen3NextForCausalLM"],
)
def test_decode_cache_of_another_architecture_is_the_default(architecture: str) -> None:
    found = plan(topology(), identities={"base": identity(architecture=architecture)})
    assert flags(found.workers[0])["--radix-cache-backend"] == "sun_prompt_only"
    assert found.notes == ()


@pytest.mark.parametrize(
    ("machine", "engine", "weights", "cached"),
    [
        (gpu_machine(4), "{}", "math", False),
        (gpu_machine(4), "{mamba_radix_cache_strategy: extra_buffer}", "math", False),
        (gpu_machine(4), "{mamba_radix_cache_strategy: no_buffer, disable_overlap_schedule: true}", "math", True),
        (gpu_machine(4), "{disable_overlap_schedule: true}", "math", True),
        (gpu_machine(4), "{disable_overlap_schedule: true, page_size: 64}", "math", False),
        (gpu_machine(4), "{}", "base", True),
        (LAPTOP, "{}", "math", True),
        (LAPTOP, "{page_size: 16}", "math", False),
    ],
)
def test_decode_cache_of_a_model_with_states_needs_the_state_at_a_prompts_end(
    machine: Machine, engine: str, weights: str, cached: bool
) -> None:
    pools = {
        n: identity("base" if n == "base" else weights, architecture="Qwen3NextForCausalLM") for n in topology().pools
    }
    found = plan(topology(engine=engine), machine, pools)
    decode = next(worker for worker in found.workers if worker.role == "decode")
    assert ("--disaggregation-decode-enable-radix-cache" in flags(decode)) == cached
    said = "Pool `base` has no decode cache: for `Qwen3NextForCausalLM` SGLang keeps the state at a prompt's end only"
    assert [note.startswith(said) for note in found.notes] == ([] if cached else [True])


@pytest.mark.parametrize(
    ("engine", "cache"),
    [
        ("{disaggregation_decode_enable_radix_cache: true}", "sun_prompt_only"),
        ("{disaggregation_decode_enable_radix_cache: false}", None),
        ("{disable_radix_cache: true}", None),
    ],
)
def test_users_own_choice_of_a_decode_cache_wins_over_the_architecture(engine: str, cache: str | None) -> None:
    found = plan(topology(engine=engine), identities={"base": identity(architecture="Gemma4ForCausalLM")})
    assert flags(found.workers[0]).get("--radix-cache-backend") == cache
    assert found.notes == ()


@pytest.mark.parametrize(
    ("weights", "engine", "cached"),
    [
        ("math", "{enable_int8_mamba_checkpoint: true}", False),
        ("math", "{enable_int8_mamba_checkpoint: true, radix_cache_backend: null}", True),
        ("base", "{enable_int8_mamba_checkpoint: true}", True),
    ],
)
def test_flag_that_sglang_combines_with_its_own_cache_alone_leaves_out_ours(
    weights: str, engine: str, cached: bool
) -> None:
    known = {"base": identity("base"), "math": identity(weights), "tool": identity(weights)}
    found = plan(topology(engine=engine), identities=known)
    decode = flags(found.workers[0])
    assert ("--disaggregation-decode-enable-radix-cache" in decode) == cached
    assert "--radix-cache-backend" not in decode
    assert any("no decode cache" in note for note in found.notes) == (not cached)


@pytest.mark.parametrize(
    ("math", "tool", "engine", "cache"),
    [
        ("base", "base", "", None),
        ("base", "other", "", "sun_prompt_only"),
        ("other", "other", "", "sun_prompt_only"),
        (None, "base", "", "sun_prompt_only"),
        ("base", "base", "engine: {quantization: fp8}", "sun_prompt_only"),
    ],
)
def test_the_stock_cache_is_for_a_module_that_decodes_its_own_kv(
    math: str | None, tool: str, engine: str, cache: str | None
) -> None:
    text = SUN.replace("model: tool-model", f"model: tool-model, {engine}") if engine else SUN
    known = {name: identity(weights) if weights else None for name, weights in (("math", math), ("tool", tool))}
    found = plan(topology(text), identities={**known, "base": identity("base")})
    assert flags(found.workers[0]).get("--radix-cache-backend") == cache
    assert "--disaggregation-decode-enable-radix-cache" in flags(found.workers[0])


def test_one_hugging_face_id_on_both_sides_is_one_module() -> None:
    text = "pools: {p: {role: prefill, model: org/m}, d: {role: decode, model: org/m, revision: REV}}\n"
    tasks = "tasks: {t: {prefill: p, decode: d}}\n"
    same = plan(topology(text.replace(", revision: REV", "") + tasks)).workers[1]
    other = plan(topology(text + tasks)).workers[1]
    assert "--radix-cache-backend" not in flags(same)
    assert flags(other)["--radix-cache-backend"] == "sun_prompt_only"


BOTH, MOONCAKE = frozenset({"nixl", "mooncake"}), frozenset({"mooncake"})
MLX = RdmaDevice(name="mlx5_0", driver="mlx5_core")
DOWN = RdmaDevice(name="mlx5_1", driver="mlx5_core", obstacle="port 1 is DOWN")
EFA = RdmaDevice(name="efa_0", driver="efa")


@pytest.mark.parametrize(
    ("machine", "engine", "backend", "reason"),
    [
        (LAPTOP, "{}", "mooncake_tcp", "Workers run on the CPU"),
        (
            LAPTOP.model_copy(update={"transfer_packages": frozenset({"nixl"})}),
            "{}",
            "nixl",
            "mooncake is not installed",
        ),
        (gpu_machine(4), "{}", "nixl", "All workers share this host, and NIXL is installed"),
        (gpu_machine(4, rdma=(MLX,), transfer_packages=BOTH), "{}", "nixl", "All workers share this host"),
        (
            gpu_machine(4, rdma=(MLX,), transfer_packages=MOONCAKE),
            "{}",
            "mooncake",
            r"RDMA works \(mlx5_0 \(mlx5_core\)\)",
        ),
        (
            gpu_machine(4, rdma=(DOWN,), transfer_packages=MOONCAKE),
            "{}",
            "mooncake_tcp",
            r"used \(mlx5_1 .*: port 1 is DOWN\)\.",
        ),
        (gpu_machine(4, transfer_packages=MOONCAKE), "{}", "mooncake_tcp", "NIXL is not, and there is no RDMA device"),
        (gpu_machine(4, transfer_packages=frozenset()), "{}", "nixl", "install `nixl`"),
        (gpu_machine(4, rdma=(MLX,)), "{disaggregation_transfer_backend: mooncake}", "mooncake", "sets it.$"),
        (
            gpu_machine(4, rdma=(DOWN,)),
            "{disaggregation_transfer_backend: mooncake}",
            "mooncake",
            r"The topology sets it\. It needs RDMA: no RDMA device can be used \(mlx5_1 .*: port 1 is DOWN\)",
        ),
        (gpu_machine(4), "{device: cpu}", "nixl", "mooncake is not installed"),
    ],
)
def test_the_transfer_backend_is_chosen_with_a_reason(machine: Machine, engine: str, backend: str, reason: str) -> None:
    found = plan(topology(engine=engine), machine)
    assert found.transfer.backend == backend
    assert re.search(reason, found.transfer.reason)
    assert all(flags(w)["--disaggregation-transfer-backend"] == backend for w in found.workers)


@pytest.mark.parametrize(
    ("rdma", "user", "protocol"),
    [((EFA,), "", "efa"), ((EFA, DOWN), "", "efa"), ((EFA, MLX), "", None), ((MLX,), "", None), ((EFA,), "tcp", None)],
)
@pytest.mark.parametrize("engine", ["{}", "{disaggregation_transfer_backend: mooncake}"])
def test_mooncake_on_efa_alone_gets_its_protocol_unless_the_user_sets_one(
    engine: str, rdma: tuple[RdmaDevice, ...], user: str, protocol: str | None
) -> None:
    machine = gpu_machine(4, rdma=rdma, transfer_packages=MOONCAKE, mooncake_variables={"MOONCAKE_PROTOCOL": user})
    found = plan(topology(engine=engine), machine)
    assert found.transfer.backend == "mooncake"
    assert {w.env.get("MOONCAKE_PROTOCOL") for w in found.workers} == {protocol}


@pytest.mark.parametrize("engine", ["{}", "{disaggregation_transfer_backend: mooncake_tcp}"])
def test_mooncake_over_tcp_gets_its_longest_queues_unless_the_user_sets_one(engine: str) -> None:
    queue, admission = "MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER", "MC_TCP_ADMISSION_TIMEOUT_MS"
    machine = LAPTOP.model_copy(update={"mooncake_variables": {admission: "5"}})
    found = plan(topology(engine=engine), machine)
    assert {w.env[queue] for w in found.workers} == {"65535"}
    # a worker inherits the user's own value
    assert all(admission not in w.env for w in found.workers)
    other = plan(topology(engine="{disaggregation_transfer_backend: nixl}"), machine)
    assert all(queue not in w.env for w in other.workers)


def test_workers_take_gpus_in_order() -> None:
    text = SUN.replace("base-model, replicas: 2", "base-model, replicas: 2, engine: {tp_size: 2}")
    found = plan(topology(text), gpu_machine(6))
    assert [w.gpus for w in found.workers] == [(0, 1), (2, 3), (4,), (5,)]


def test_pools_may_share_gpus() -> None:
    text = SUN.replace("math-model", "math-model, gpus: [0]").replace("tool-model", "tool-model, gpus: [0]")
    assert [w.gpus for w in plan(topology(text), gpu_machine(3)).workers] == [(1,), (2,), (0,), (0,)]


def test_replicas_take_their_pools_gpus_in_turn() -> None:
    text = SUN.replace("replicas: 2", "replicas: 3, gpus: [2, 3]")
    assert [w.gpus for w in plan(topology(text), gpu_machine(4)).workers] == [(2,), (3,), (2,), (0,), (1,)]


@pytest.mark.parametrize(
    ("text", "engine", "gpus", "message"),
    [
        (
            SUN,
            "{tp_size: 2}",
            6,
            "pools: 8 GPUs are needed and 6 are free on this machine; "
            "lower `replicas` or `tp_size`, or let pools share GPUs with `gpus: [...]`",
        ),
        (SUN, "{tp_size: 2, pp_size: 2, dp_size: 2}", 8, "pools: 32 GPUs are needed and 8 are free"),
        (SUN, "{tp_size: 2, dp_size: 2, enable_dp_attention: true}", 6, "pools: 8 GPUs are needed and 6 are free"),
        (SUN, "{device: cuda}", 0, "pools: 4 GPUs are needed and 0 are free"),
        (SUN, "{device: npu}", 4, "engine.device: `npu` is not supported; write `cuda` or `cpu`"),
        (SUN.replace("math-model", "math-model, gpus: [0, 1]"), "{}", 3, "pools: 3 GPUs are needed and 1 are free"),
        (
            SUN.replace("math-model", "math-model, gpus: [9]"),
            "{}",
            4,
            "pools.math.gpus: this machine has no GPU 9; GPUs: [0, 1, 2, 3]",
        ),
        (
            SUN.replace("math-model", "math-model, gpus: [0]"),
            "{tp_size: 2}",
            8,
            "pools.math.gpus: a worker takes 2 GPUs and 1 are named",
        ),
    ],
)
def test_gpus_that_are_not_there_are_an_error(text: str, engine: str, gpus: int, message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        plan(topology(text, engine), gpu_machine(gpus))
    assert str(caught.value).startswith(message)


def test_worker_counts_gpus_as_nvidia_smi_does() -> None:
    worker = plan(topology(SUN.replace("replicas: 2", "gpus: [2]")), gpu_machine(4)).workers[0]
    assert (worker.env["CUDA_VISIBLE_DEVICES"], worker.env["CUDA_DEVICE_ORDER"]) == ("2", "PCI_BUS_ID")


MIG = tuple(Gpu(index=8 + i, uuid=f"MIG-{i}", name="NVIDIA H100 MIG 1g.10gb", memory_mb=0, mig=True) for i in range(4))


def test_worker_on_a_mig_device_is_given_its_uuid() -> None:
    found = plan(topology(SUN.replace("replicas: 2", "gpus: [9]")), gpu_machine(0, gpus=MIG)).workers
    assert [w.env["CUDA_VISIBLE_DEVICES"] for w in found] == ["MIG-1", "MIG-0", "MIG-2"]


def test_numa_node_is_looked_up_for_whole_gpus_only() -> None:
    split = plan(topology(SUN.replace("replicas: 2", "gpus: [9]")), gpu_machine(0, gpus=MIG)).workers
    assert {w.env.get("SGLANG_AUTO_NUMA_BIND") for w in split} == {"false"}
    assert {w.env.get("SGLANG_AUTO_NUMA_BIND") for w in plan(topology(), gpu_machine(4)).workers} == {None}


def test_worker_that_takes_two_mig_devices_is_an_error() -> None:
    with pytest.raises(
        TopologyError, match=r"pools\.base: a worker takes 2 GPUs, and .* one MIG device; set `tp_size`"
    ):
        plan(topology(SUN.replace("replicas: 2", "engine: {tp_size: 2}")), gpu_machine(0, gpus=MIG))


@pytest.mark.parametrize(("engine", "allowed"), [("{}", False), ("{device: cuda}", False), ("{device: cpu}", True)])
def test_gpus_that_cannot_be_told_are_an_error_unless_the_cpu_is_asked_for(engine: str, allowed: bool) -> None:
    machine = LAPTOP.model_copy(update={"gpu_problem": "CUDA_VISIBLE_DEVICES: `MIG-9` matches no GPU"})
    if allowed:
        assert flags(plan(topology(engine=engine), machine).workers[0])["--device"] == "cpu"
        return
    with pytest.raises(UserError, match="`MIG-9` matches no GPU"):
        plan(topology(engine=engine), machine)


def test_pools_with_two_transfer_backends_are_an_error() -> None:
    text = SUN.replace("math-model", "math-model, engine: {disaggregation_transfer_backend: nixl}")
    with pytest.raises(TopologyError, match="`disaggregation_transfer_backend` differs"):
        plan(topology(text, "{disaggregation_transfer_backend: mooncake}"))


def test_a_cpu_worker_sees_no_gpu() -> None:
    for worker in plan(topology(engine="{device: cpu}"), gpu_machine(4)).workers:
        assert worker.gpus == ()
        assert worker.env["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("engine", ["{dtype: float32}", "{dtype: float, decode_attention_backend: triton}"])
def test_float32_on_gpu_is_refused_by_its_place(engine: str) -> None:
    with pytest.raises(TopologyError, match=r"engine\.dtype: `float(32)?`: FA3.*bfloat16 and float16 only; remove it"):
        plan(topology(engine=engine), gpu_machine(4))


@pytest.mark.parametrize(
    "engine",
    [
        "{dtype: float32, attention_backend: torch_native}",
        "{dtype: float32, prefill_attention_backend: triton, decode_attention_backend: triton}",
        "{dtype: float32, device: cpu}",
        "{dtype: float16}",
    ],
)
def test_dtype_that_the_attention_backend_takes_passes(engine: str) -> None:
    worker = plan(topology(engine=engine), gpu_machine(4)).workers[0]
    assert flags(worker)["--dtype"] in engine


@pytest.mark.parametrize(
    ("gpu", "changes", "backend"),
    [
        ("NVIDIA H100 80GB HBM3", {"head_dim": 32}, "triton"),
        ("NVIDIA H100 80GB HBM3", {"head_dim": 64}, None),
        ("NVIDIA H100 80GB HBM3", {"head_dim": 128, "architecture": "Qwen3NextForCausalLM"}, None),
        ("NVIDIA GB200", {"head_dim": 128, "architecture": "Qwen3NextForCausalLM"}, "triton"),
        ("NVIDIA B200", {"head_dim": 128}, None),
    ],
)
def test_attention_backend_on_gpu_is_sglangs_unless_it_has_no_kernel_or_differs_between_sides(
    gpu: str, changes: dict[str, Any], backend: str | None
) -> None:
    machine = Machine(
        gpus=tuple(Gpu(index=i, uuid=f"GPU-{i}", name=gpu, memory_mb=80000) for i in range(4)), cores=8, memory=1 << 40
    )
    found = plan(topology(), machine, dict.fromkeys(("base", "math", "tool"), identity(**changes)))
    assert {flags(w).get("--attention-backend") for w in found.workers} == {backend}


def test_bfloat16_is_the_cpus_dtype_only_where_it_can_multiply_it() -> None:
    able = LAPTOP.model_copy(update={"cpu_bf16": True})
    assert flags(plan(topology(), able).workers[0])["--dtype"] == "bfloat16"
    assert flags(plan(topology(), LAPTOP).workers[0])["--dtype"] == "float32"
    assert "--dtype" not in flags(plan(topology(), gpu_machine(4)).workers[0])


@pytest.mark.parametrize(
    ("engine", "caches", "threads"),
    [
        ("{}", 4, 2),
        ("{tp_size: 2}", 4, 1),
        ("{dp_size: 2}", 8, 1),
        ("{tp_size: 2, attention_data_parallel_size: 2}", 8, 1),
    ],
)
def test_cores_are_divided_among_ranks_and_kv_memory_among_caches(engine: str, caches: int, threads: int) -> None:
    model = identity(num_layers=80, num_kv_heads=64, head_dim=128)
    found = plan(topology(SUN, engine), identities={"math": model}).workers[2]
    assert flags(found)["--max-total-tokens"] == str(cpu_kv_tokens(model, LAPTOP, caches))
    assert found.threads == threads


@given(
    st.integers(1, 200),
    st.integers(1, 64),
    st.sampled_from([64, 128]),
    st.integers(1, 64),
    st.integers(1 << 31, 1 << 41),
)
def test_kv_of_all_cpu_workers_stays_within_an_eighth_of_the_memory(
    layers: int, heads: int, size: int, workers: int, memory: int
) -> None:
    model = identity(num_layers=layers, num_kv_heads=heads, head_dim=size)
    machine = Machine(cores=1, memory=memory)
    tokens = cpu_kv_tokens(model, machine, workers)
    token = 2 * layers * heads * size * 4
    assert 1 <= tokens <= 65536
    assert tokens == 1 or workers * tokens * token <= memory / 8


def test_cpu_kv_tokens_of_8_bit_kv_are_four_times_those_of_float32() -> None:
    machine = Machine(cores=1, memory=1 << 30)
    wide, narrow = (identity(num_layers=64, num_kv_heads=8, head_dim=128, kv_dtype=t) for t in ("float32", "fp8_e4m3"))
    assert cpu_kv_tokens(narrow, machine, 1) == 4 * cpu_kv_tokens(wide, machine, 1)


def test_sglang_itself_accepts_every_argument() -> None:
    from sun_sglang.launch.planning.flags.flag_schema import load_flag_schema

    schema = load_flag_schema()
    if schema is None:
        pytest.skip("SGLang is not installed")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in schema.flags:
        if flag.kind == "switch":
            parser.add_argument(*flag.options, action="store_true")
        elif flag.kind == "value":
            parser.add_argument(*flag.options, choices=flag.choices or None)
    for machine in (LAPTOP, gpu_machine(4)):
        for worker in plan(topology(), machine).workers:
            address = Address(host="127.0.0.1", port=1, bootstrap_port=2, nccl_port=3)
            parser.parse_args(command_at(worker, address).argv)
