"""The manifests of a topology: valid, complete, without secrets, and refused where pods cannot have what it has."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sun_sglang.cli.main import main
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.errors import UserError
from sun_sglang.kubernetes.export.manifests import Export, export, to_yaml
from sun_sglang.kubernetes.export.options import ExportOptions, parse_models_volume
from sun_sglang.kubernetes.labels import COMPONENT, INSTANCE, POOL
from sun_sglang.topology_file import load_topology, parse_topology
from tests.unit.kubernetes.schemas import Manifest, validate

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs/llama-3.1-8b").glob("*.yaml"))
OPTIONS = ExportOptions(image="registry.example.com/sun:1", namespace="serving")
EMULATED = """
pools:
  math: {role: prefill, model: m}
  base: {role: decode, model: b, replicas: 3}
tasks:
  sums: {prefill: math, decode: base}
backend: emulated
"""


def exported(text: str = EMULATED, base: Path = ROOT, **options: Any) -> Export:
    return export(parse_topology(text, base=base), OPTIONS.model_copy(update=options))


def one(made: Export, kind: str, name: str) -> Manifest:
    (found,) = [m for m in made.objects if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def pod(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def container(manifest: Manifest, name: str = "worker") -> Manifest:
    (found,) = [c for c in pod(manifest)["containers"] if c["name"] == name]
    return found


def flag(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_manifests_of_the_examples_are_valid(file: Path) -> None:
    topology = load_topology(file)
    made = export(topology, OPTIONS)
    for manifest in yaml.load_all(to_yaml(made.objects), Loader=yaml.CSafeLoader):
        validate(manifest)
        assert manifest["metadata"]["namespace"] == "serving"
    for pool, settings in topology.pools.items():
        deployment = one(made, "Deployment", f"sun-{pool}")
        assert deployment["spec"]["replicas"] == settings.replicas
        assert container(deployment)["resources"]["limits"]["nvidia.com/gpu"] == "1"
        command = container(deployment)["command"]
        assert (flag(command, "--model-path"), flag(command, "--host")) == (settings.model, "$(POD_IP)")
        assert "CUDA_VISIBLE_DEVICES" not in {variable["name"] for variable in container(deployment)["env"]}
        for kind in ("Service", "PodDisruptionBudget"):
            assert one(made, kind, f"sun-{pool}")


def _plant(path: str, value: object) -> Callable[[Manifest], None]:
    def plant(manifest: Manifest) -> None:
        *parents, last = path.split(".")
        for key in parents:
            manifest = manifest[int(key)] if isinstance(manifest, list) else manifest[key]
        manifest[last] = value

    return plant


_WORKER = "spec.template.spec.containers.0"


@pytest.mark.parametrize(
    ("kind", "mistake"),
    [
        ("Deployment", _plant("spec.replica", 2)),
        ("Deployment", _plant("spec.replicas", "two")),
        ("Deployment", _plant(f"{_WORKER}.readinesProbe", {})),
        ("Deployment", _plant(f"{_WORKER}.livenessProbe.periodSecond", 5)),
        ("Deployment", _plant("spec.template.spec.terminationGracePeriodSecs", 5)),
        ("Service", _plant("spec.ports.0.portt", 5)),
        ("PodDisruptionBudget", _plant("spec.maxUnavailble", 1)),
        ("NetworkPolicy", _plant("spec.ingress.0.form", [])),
        ("Role", _plant("rules.0.verb", [])),
        ("LeaderWorkerSet", _plant("spec.leaderWorkerTemplate.sizes", 2)),
        ("LeaderWorkerSet", _plant("spec.leaderWorkerTemplate.restartPolicy", "Never")),
        ("LeaderWorkerSet", _plant("spec.leaderWorkerTemplate.workerTemplate.spec.container", [])),
        ("LeaderWorkerSet", _plant("spec.rolloutStrategy.rollingUpdateConfiguration.maxUnavailble", 1)),
    ],
)
def test_a_planted_mistake_is_found(kind: str, mistake: Callable[[Manifest], None]) -> None:
    made = exported(SPANNING if kind == "LeaderWorkerSet" else EMULATED)
    manifest = copy.deepcopy(next(m for m in made.objects if m["kind"] == kind))
    validate(manifest)
    mistake(manifest)
    with pytest.raises(jsonschema.ValidationError):
        validate(manifest)


SPANNING = """
pools:
  math: {role: prefill, model: org/m}
  base: {role: decode, model: org/b, replicas: 2, engine: {tp_size: 16, nnodes: 2}}
tasks:
  sums: {prefill: math, decode: base}
"""


def test_a_pool_whose_workers_span_pods_is_a_leader_worker_set() -> None:
    made = exported(SPANNING)
    manifest = one(made, "LeaderWorkerSet", "sun-base")
    validate(manifest)
    group = manifest["spec"]["leaderWorkerTemplate"]
    assert (group["size"], manifest["spec"]["replicas"]) == (2, 2)
    for template, component in ((group["leaderTemplate"], "worker"), (group["workerTemplate"], "rank")):
        assert template["metadata"]["labels"][COMPONENT] == component
        (worker,) = template["spec"]["containers"]
        assert worker["resources"]["limits"]["nvidia.com/gpu"] == "8"
        command = worker["command"]
        assert (flag(command, "--nnodes"), flag(command, "--node-rank")) == ("2", "$(LWS_WORKER_INDEX)")
        assert flag(command, "--dist-init-addr") == "$(LWS_LEADER_ADDRESS):20000"
        assert ("readinessProbe" in worker) == ("lifecycle" in worker) == (component == "worker")
    # discovery and the Service choose the pods that serve HTTP
    assert one(made, "Service", "sun-base")["spec"]["selector"][COMPONENT] == "worker"


def test_a_worker_gets_the_command_of_a_launch_at_the_address_of_its_pod() -> None:
    made = exported()
    command = container(one(made, "Deployment", "sun-math"))["command"]
    assert command[:4] == ["python", "-m", "sun_sglang.kubernetes.in_pod.start_worker", "sun_sglang.emulator.worker"]
    settings = parse_settings(command[4:])
    assert (settings.role, settings.model, settings.port, settings.host) == ("prefill", "m", 30000, "$(POD_IP)")
    assert "nvidia.com/gpu" not in container(one(made, "Deployment", "sun-math"))["resources"]["limits"]


def test_the_fleet_file_has_the_tasks_and_no_workers() -> None:
    made = exported(EMULATED + "router: {port: 8080, drain_timeout: 90, hosts: [sun.example.com]}\n")
    fleet = Fleet.model_validate_json(one(made, "ConfigMap", "sun-fleet")["data"]["fleet.json"])
    assert (list(fleet.tasks), list(fleet.pools), fleet.workers) == (["sums"], ["math", "base"], ())
    assert (fleet.router.host, fleet.router.port) == ("0.0.0.0", 8080)
    assert fleet.router.hosts == ("sun.example.com", "sun-router.serving", "sun-router.serving.svc")
    assert fleet.admin_key_file == "/run/sun/admin.key"


def test_a_pod_has_time_for_its_hook_and_for_its_end() -> None:
    made = exported(EMULATED + "router: {drain_timeout: 90.5}\n")
    worker = one(made, "Deployment", "sun-base")
    hook = container(worker)["lifecycle"]["preStop"]["exec"]["command"]
    assert int(hook[-1]) == 96
    assert pod(worker)["terminationGracePeriodSeconds"] == 96 + 20
    assert pod(one(made, "Deployment", "sun-router"))["terminationGracePeriodSeconds"] > 90.5 + 5


def test_secrets_are_named_and_never_written(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("keys: [{name: a, key: the-secret-of-a-client}]\n")
    text = EMULATED + "router: {api_keys: keys.yaml, tls_cert: c.pem, tls_key: k.pem}\n"
    made = exported(text, tmp_path)
    written = to_yaml(made.objects)
    assert "the-secret" not in written
    assert not [m for m in made.objects if m["kind"] == "Secret"]
    assert str(tmp_path) not in written, "pods have no path of this machine"
    commands = "\n".join(made.secrets)
    assert f"generic sun-api-keys --from-file=keys.yaml={tmp_path}/keys.yaml --namespace serving" in commands
    assert f"tls sun-tls --cert={tmp_path}/c.pem --key={tmp_path}/k.pem" in commands
    router = one(made, "Deployment", "sun-router")
    named = {v["secret"]["secretName"] for v in pod(router)["volumes"] if "secret" in v}
    assert named == {"sun-api-keys", "sun-tls"}
    assert container(router, "router")["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert "https://127.0.0.1:8000" in container(router, "discovery")["command"]
    for c, name in ((container(router, "discovery"), "sun"), (container(one(made, "Deployment", "sun-base")), "sun")):
        (key,) = [v["valueFrom"] for v in c["env"] if v["name"] == "SUN_WORKER_KEY"]
        assert key == {"secretKeyRef": {"name": f"{name}-worker-key", "key": "key"}}


def test_pods_have_no_root_and_workers_no_token() -> None:
    made = exported()
    for deployment in (m for m in made.objects if m["kind"] == "Deployment"):
        assert pod(deployment)["automountServiceAccountToken"] is False
        assert pod(deployment)["securityContext"]["runAsNonRoot"] is True
        for c in pod(deployment)["containers"]:
            assert c["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            mounted = any(mount["name"] == "token" for mount in c["volumeMounts"])
            assert mounted == (c["name"] == "discovery")
    (rule,) = one(made, "Role", "sun-router")["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}


def test_workers_are_open_to_the_deployment_alone() -> None:
    made = exported()
    spec = one(made, "NetworkPolicy", "sun-workers")["spec"]
    assert spec["ingress"] == [{"from": [{"podSelector": {"matchLabels": {INSTANCE: "sun"}}}]}]
    labels = one(made, "Deployment", "sun-base")["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    (expression,) = spec["podSelector"]["matchExpressions"]
    assert labels[expression["key"]] in expression["values"]
    assert one(made, "NetworkPolicy", "sun-router")["spec"]["ingress"] == [
        {"ports": [{"port": 8000, "protocol": "TCP"}]}
    ]


def test_selectors_match_the_pods_of_one_pool() -> None:
    made = exported()
    for name in ("sun-math", "sun-base"):
        deployment = one(made, "Deployment", name)
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            one(made, "Service", name)["spec"]["selector"],
            one(made, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
        ):
            assert selector.items() <= labels.items()
            assert selector[POOL] == name.removeprefix("sun-")


def test_small_files_go_into_a_config_map_and_models_stay_on_the_volume(tmp_path: Path) -> None:
    (tmp_path / "plain.jinja").write_text("{{ a }}\n")
    text = """
pools:
  math: {role: prefill, model: /models/math}
  base: {role: decode, model: /models/base}
tasks: {sums: {prefill: math, decode: base}}
engine: {chat_template: plain.jinja}
"""
    made = exported(text, tmp_path, models=parse_models_volume("claim=/models"))
    assert one(made, "ConfigMap", "sun-files")["data"] == {"0-plain.jinja": "{{ a }}\n"}
    worker = one(made, "Deployment", "sun-math")
    command = container(worker)["command"]
    assert flag(command, "--chat-template") == "/etc/sun/files/0-plain.jinja"
    assert flag(command, "--model-path") == "/models/math"
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container(worker)["volumeMounts"]
    assert {
        "name": "models",
        "persistentVolumeClaim": {"claimName": "claim", "readOnly": True},
    } in pod(worker)["volumes"]


LOCAL = EMULATED.replace("model: m}", "model: /models/m}")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (EMULATED + "router: {port: 0}", {}, "router.port: is 0, and a Service needs a fixed port"),
        (EMULATED + "router: {port: 443}", {}, "router.port: is 443, and the router's container does not run as root"),
        (EMULATED.replace("model: m}", "model: m, gpus: [0]}"), {}, "pools.math.gpus: has indices of one machine's"),
        (LOCAL, {}, "pools.math.model: /models/m is a directory of this machine; put it on a volume"),
        (LOCAL, {"models": parse_models_volume("c=/other")}, "pools.math.model: /models/m is not in /other"),
        (EMULATED.replace("math", "ma_th").replace("base", "Ma.th"), {}, "pools.Ma.th: would be named `sun-ma-th`"),
        (EMULATED.replace("math", "router"), {}, "pools.router: would be named `sun-router`"),
        (EMULATED.replace("math", "m" * 60), {}, f"pools.{'m' * 60}: `sun-{'m' * 60}` is longer than 46"),
        (EMULATED.replace("math", "m-"), {}, "pools.m-: is not the value of a label"),
        (SPANNING.replace("nnodes: 2", "nnodes: 3"), {}, "pools.base.engine.nnodes: 16 ranks cannot be divided"),
        (EMULATED, {"name": "Sun"}, "--name: `Sun` must be"),
        (EMULATED, {"namespace": "a.b"}, "--namespace: `a.b` is no name"),
        (EMULATED, {"image": "a b"}, "--image: `a b` is no name"),
        (EMULATED, {"image": ""}, "--image: is empty"),
        (EMULATED, {"gpu_resource": "a b"}, "--gpu-resource: `a b` is no name"),
        (EMULATED, {"gpu_resource": ""}, "--gpu-resource: `` is no name"),
        (EMULATED, {"cache_claim": "A"}, "--cache-volume: `A` is no name"),
    ],
)
def test_what_pods_cannot_have_is_one_error(text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        exported(text, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["claim", "=/models", "claim=models", "claim=/"])
def test_a_models_volume_names_a_claim_and_a_directory(text: str) -> None:
    with pytest.raises(UserError, match="write CLAIM=/DIRECTORY"):
        parse_models_volume(text)


def test_settings_that_are_left_out_are_noted() -> None:
    text = EMULATED + (
        "router: {host: 10.0.0.1, processes: 2}\nautoscale: {pool: base, min: 4, max: 8, slo: {tpot: 25ms}}\n"
    )
    made = exported(text)
    assert [note.split(" is left out")[0] for note in made.notes if "left out" in note] == [
        "`router.host` 10.0.0.1",
        "`router.processes` 2",
        "`autoscale` of `base`",
    ]
    assert one(made, "Deployment", "sun-base")["spec"]["replicas"] == 4


def test_the_command_writes_a_stream_or_a_file_for_each_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "sun.yaml", tmp_path / "out"
    file.write_text(EMULATED)
    command = ["export", "kubernetes", str(file), "--image", "sun:1"]

    def run(*more: str) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*command, *more])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    code, stream, said = run()
    assert (code or 0, "kubectl create secret generic sun-worker-key" in said) == (0, True)
    objects = list(yaml.load_all(stream, Loader=yaml.CSafeLoader))
    assert run("--output", str(out))[:2] in ((0, ""), (None, ""))
    written = [yaml.safe_load(path.read_text()) for path in out.iterdir()]
    assert sorted(map(str, written)) == sorted(map(str, objects))
    (out / "old.yaml").write_text("")
    code, _, said = run("--output", str(out))
    assert (code, "old.yaml" in said) == (1, True)
