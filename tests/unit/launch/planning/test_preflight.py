import importlib.metadata
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.contracts.decode_cache import ANSWER_STORE_FLAGS
from sun_sglang.errors import CheckpointError, IdentityError, TopologyError, UserError
from sun_sglang.launch.planning.flags.flag_schema import Flag, FlagSchema
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.preflight import preflight, require_router_port
from sun_sglang.patches.versions import ANY_VERSION_VARIABLE, installed_version
from sun_sglang.topology import Topology
from sun_sglang.topology_file import parse_topology
from tests.support.ports import PORTS

Write = Callable[..., Path]
W4A16 = {"weights": {"num_bits": 4, "strategy": "group", "group_size": 128}}
FOUR_BITS = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": W4A16},
    }
}
MACHINE = Machine(cores=2, memory=1 << 34)
DTYPE = Flag(options=("--dtype",), kind="value", type="str", choices=("auto", "float32", "float16"))
SCHEMA = FlagSchema(version="1", flags=(DTYPE,))


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Take the checkpoints of these tests, which hold no layers, for whole; a test sets other answers by directory."""
    answers: dict[str, str] = {}

    def answer(model: Path, _flags: object) -> str:
        found = answers.get(model.name, "")
        if found.startswith("lacks"):
            raise CheckpointError(found)
        return found

    monkeypatch.setattr("sun_sglang.launch.planning.preflight.require_complete", answer)
    return answers


def pair(prefill: Path | str, decode: Path | str, task: str = "", engine: str = "{}") -> Topology:
    text = f"""
pools:
  math: {{role: prefill, model: {prefill}}}
  base: {{role: decode, model: {decode}}}
tasks:
  sums: {{prefill: math, decode: base{task}}}
engine: {engine}
"""
    return parse_topology(text, base=Path("/nowhere"))


def test_two_models_that_agree_pass(write_checkpoint: Write) -> None:
    math, base = write_checkpoint("math", weights=b"tuned"), write_checkpoint("base")
    found = preflight(pair(math, base), MACHINE, SCHEMA)
    assert found.notes == ()
    expected = read_identity(base, {"dtype": "float32"}, sglang=installed_version() or "")
    assert found.pools["base"].identity == expected, "a CPU without bfloat16 uses float32"


def test_incomplete_checkpoint_is_named_with_its_pool(write_checkpoint: Write, complete: dict[str, str]) -> None:
    math, base = write_checkpoint("math"), write_checkpoint("base")
    complete["base"] = "lacks a tensor"
    with pytest.raises(CheckpointError, match=r"pools\.base\.model: lacks a tensor"):
        preflight(pair(math, base), MACHINE, SCHEMA)


def test_checkpoint_that_was_not_compared_is_noted(write_checkpoint: Write, complete: dict[str, str]) -> None:
    math, base = write_checkpoint("math"), write_checkpoint("base")
    complete["base"] = "nobody knows it"
    (note,) = preflight(pair(math, base), MACHINE, SCHEMA).notes
    assert note == "`base`: the names and shapes of its tensors were not checked: nobody knows it."


def test_two_models_that_differ_are_named_with_their_task(write_checkpoint: Write) -> None:
    math, base = write_checkpoint("math", {"num_hidden_layers": 3}), write_checkpoint("base")
    with pytest.raises(IdentityError, match=r"tasks\.sums: `math` and `base` cannot share KV: num_layers differs"):
        preflight(pair(math, base), MACHINE, SCHEMA)


def test_flags_count_in_the_comparison(write_checkpoint: Write) -> None:
    math, base = write_checkpoint("math"), write_checkpoint("base")
    topology = pair(math, f"{base}, engine: {{dtype: float16}}")
    with pytest.raises(IdentityError, match=r"kv_dtype differs \(math: float32, base: float16\)"):
        preflight(topology, MACHINE, SCHEMA)


@pytest.mark.parametrize("given", ["'{'", "'[]'"])
def test_overrides_that_are_no_json_object_are_named_with_their_place(write_checkpoint: Write, given: str) -> None:
    engine = f"{{json_model_override_args: {given}}}"
    topology = pair(write_checkpoint("p"), write_checkpoint("d"), engine=engine)
    with pytest.raises(TopologyError, match=r"engine\.json_model_override_args: is not .*JSON"):
        preflight(topology, MACHINE, None)
    elsewhere = pair("org/p", "org/d", engine=engine)
    with pytest.raises(TopologyError, match=r"engine\.json_model_override_args: is not .*JSON"):
        preflight(elsewhere, MACHINE, None)


def test_a_flag_is_checked_before_any_model_is_read() -> None:
    with pytest.raises(TopologyError, match=r"engine\.dtipe: SGLang 1 has no such flag; did you mean `dtype`"):
        preflight(pair("/absent", "/absent", engine="{dtipe: auto}"), MACHINE, SCHEMA)


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("flag", ANSWER_STORE_FLAGS)
@pytest.mark.parametrize("own", [True, False])
def test_store_for_the_kv_of_answers_is_refused_where_prefill_weights_differ(
    flag: str, own: bool, write_checkpoint: Write
) -> None:
    math, base = write_checkpoint("math", weights=b"tuned"), write_checkpoint("base")
    setting = f"{{{flag}: true}}"
    topology = pair(math, f"{base}, engine: {setting}") if own else pair(math, base, engine=setting)
    with pytest.raises(TopologyError) as caught:
        preflight(topology, MACHINE, None)
    assert caught.value.where == (f"pools.base.engine.{flag}" if own else f"engine.{flag}")
    assert "the decode pool `base` would keep the KV of answers" in caught.value.problem
    assert caught.value.fix == (
        "remove it" if own else "set it in the `engine` of prefill pools, or to `false` in `pools.base.engine`"
    )


@pytest.mark.parametrize("flag", ANSWER_STORE_FLAGS)
def test_store_for_the_kv_of_answers_is_taken_where_one_module_makes_all(flag: str, write_checkpoint: Write) -> None:
    base = write_checkpoint("base")
    preflight(pair(base, f"{base}, engine: {{{flag}: true}}"), MACHINE, None)


def test_store_for_kv_on_the_prefill_side_is_taken(write_checkpoint: Write) -> None:
    math, base = write_checkpoint("math", weights=b"tuned"), write_checkpoint("base")
    preflight(pair(f"{math}, engine: {{enable_hierarchical_cache: true}}", base), MACHINE, None)
    everywhere = "{enable_hierarchical_cache: true}"
    spared = f"{base}, engine: {{enable_hierarchical_cache: false}}"
    preflight(pair(math, spared, engine=everywhere), MACHINE, None)


def test_without_sglang_flags_are_not_checked_and_that_is_said(write_checkpoint: Write) -> None:
    model = write_checkpoint("model")
    found = preflight(pair(model, model, engine="{dtipe: auto}"), MACHINE, None)
    assert found.notes == ("SGLang is not installed here: its flags in `engine` were not checked.",)


def test_sglang_that_the_product_was_not_run_on_is_refused_unless_any_is_permitted(
    write_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9")
    monkeypatch.delenv(ANY_VERSION_VARIABLE, raising=False)
    model = write_checkpoint("model")
    topology = pair(model, model)
    with pytest.raises(UserError, match=r"SGLang 9\.9 is installed"):
        preflight(topology, MACHINE, SCHEMA)
    preflight(topology.model_copy(update={"backend": "emulated"}), MACHINE, SCHEMA)
    monkeypatch.setenv(ANY_VERSION_VARIABLE, "1")
    preflight(topology, MACHINE, SCHEMA)


def test_models_elsewhere_are_not_checked_and_that_is_said(
    write_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    found = preflight(pair("org/math", write_checkpoint("base")), MACHINE, SCHEMA)
    assert found.notes == ("Not on this machine and taken for Hugging Face ids, so not checked: `math` (org/math).",)
    assert found.pools["math"].identity is None
    assert found.pools["base"].identity is not None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/absent/model", "pools.math.model: /absent/model is not a directory; give a model's directory"),
        ("./model", "pools.math.model: /nowhere/model is not a directory; give a model's directory"),
        (
            "models/org/math",
            "pools.math.model: `models/org/math` is neither a directory beside the topology file nor a",
        ),
        ("what is this", "pools.math.model: `what is this` is neither a directory"),
    ],
)
def test_a_model_that_is_nowhere_is_named(model: str, message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        preflight(pair(model, "org/base"), MACHINE, SCHEMA)
    assert str(caught.value).startswith(message)


def test_a_broken_checkpoint_is_named_with_its_pool(write_checkpoint: Write) -> None:
    math = write_checkpoint("math")
    (math / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"pools\.math\.model: .*math: no tokenizer"):
        preflight(pair(math, "org/base"), MACHINE, SCHEMA)


def tuned_for(decoder: str, first_token: str = "prefill") -> dict[str, str]:
    return {"scheme": "prefill_only", "base": "b", "decoder": decoder, "first_token": first_token}


def test_a_model_with_its_own_decoder_passes(write_checkpoint: Write) -> None:
    base = write_checkpoint("base")
    revision = read_identity(base, {}).weights
    preflight(pair(write_checkpoint("math", record=tuned_for(revision)), base), MACHINE, SCHEMA)


def test_preflight_of_a_model_by_another_trainer_passes(write_checkpoint: Write) -> None:
    base = write_checkpoint("base")
    record = {**tuned_for(read_identity(base, {}).weights), "scheme": "half", "command": ["train"], "recipe": "a.yaml"}
    preflight(pair(write_checkpoint("math", record=record), base), MACHINE, SCHEMA)


def test_a_model_tuned_for_another_decoder_is_refused(write_checkpoint: Write) -> None:
    base = write_checkpoint("base")
    revision = read_identity(base, {}).weights
    math = write_checkpoint("math", record=tuned_for("0123456789abcdef"))
    with pytest.raises(IdentityError) as caught:
        preflight(pair(math, base), MACHINE, SCHEMA)
    assert str(caught.value) == (
        "tasks.sums: `math` was tuned to be decoded by weights 0123456789abcdef, "
        f"and `base` has weights {revision}; name the right decode pool, tune again for this one, or set "
        "`any_decoder: true` on the task"
    )
    preflight(pair(math, base, ", any_decoder: true"), MACHINE, SCHEMA)


def test_a_four_bit_decoder_is_refused_for_a_model_tuned_for_full_precision(write_checkpoint: Write) -> None:
    full = read_identity(write_checkpoint("full"), {}).weights
    quantized = write_checkpoint("quantized", FOUR_BITS, weights=b"4 bit", record={**tuned_for("x"), "base": full})
    math = write_checkpoint("math", record=tuned_for(full))
    with pytest.raises(
        IdentityError, match=rf"decoded by weights {full}, and `base` has weights \w+ \(made from those"
    ):
        preflight(pair(math, quantized), MACHINE, SCHEMA)
    preflight(pair(math, quantized, ", any_decoder: true"), MACHINE, SCHEMA)


def test_a_model_tuned_again_for_the_four_bit_decoder_passes(write_checkpoint: Write) -> None:
    record = {**tuned_for("x"), "base": "0123456789abcdef"}
    quantized = write_checkpoint("quantized", FOUR_BITS, weights=b"4 bit", record=record)
    own = read_identity(quantized, {}).weights
    preflight(pair(write_checkpoint("math", record=tuned_for(own)), quantized), MACHINE, SCHEMA)
    tool = write_checkpoint("tool", record=tuned_for(own))
    preflight(pair(tool, f"{quantized}, engine: {{quantization: compressed-tensors}}"), MACHINE, None)


@pytest.mark.parametrize("flag", ["quantization: fp8", "load_format: bitsandbytes", "rl_quant_profile: p"])
def test_a_decoder_that_a_flag_quantizes_is_refused(write_checkpoint: Write, flag: str) -> None:
    base = write_checkpoint("base")
    math = write_checkpoint("math", record=tuned_for(read_identity(base, {}).weights))
    with pytest.raises(IdentityError, match=rf"has weights \w+ with {flag.replace(': ', '=')}; name the right"):
        preflight(pair(math, f"{base}, engine: {{{flag}}}"), MACHINE, None)


def test_preflight_of_a_prefill_model_whose_decoder_makes_the_first_token_passes(write_checkpoint: Write) -> None:
    base = write_checkpoint("base")
    record = tuned_for(read_identity(base, {}).weights, first_token="decode")
    preflight(pair(write_checkpoint("math", record=record), base), MACHINE, SCHEMA)


def tuned_decoder(write_checkpoint: Write, base: str) -> Path:
    """Return a model that decodes its own task, and was tuned on prompts that `base` prefills."""
    model = write_checkpoint("own", weights=b"own")
    record = {"scheme": "decode_only", "base": base, "decoder": read_identity(model, {}).decoder}
    (model / "sun.json").write_text(json.dumps({**record, "first_token": "decode"}))
    return model


def test_preflight_of_a_decode_model_with_the_prefill_weights_it_started_from_passes(write_checkpoint: Write) -> None:
    base = write_checkpoint("base")
    preflight(pair(base, tuned_decoder(write_checkpoint, read_identity(base, {}).weights)), MACHINE, SCHEMA)


def test_preflight_of_a_decode_model_with_other_prefill_weights_refuses_them(write_checkpoint: Write) -> None:
    base, own = write_checkpoint("base"), tuned_decoder(write_checkpoint, "0123456789abcdef")
    with pytest.raises(IdentityError, match=r"tasks\.sums: `base` was tuned on prompts that weights 0123456789abcdef"):
        preflight(pair(base, own), MACHINE, SCHEMA)
    preflight(pair(base, own, ", any_decoder: true"), MACHINE, SCHEMA)


def test_preflight_of_a_decode_model_whose_untuned_prefill_model_makes_the_first_token_refuses_it(
    write_checkpoint: Write,
) -> None:
    base = write_checkpoint("base")
    own = tuned_decoder(write_checkpoint, read_identity(base, {}).weights)
    record = json.loads((own / "sun.json").read_text())
    (own / "sun.json").write_text(json.dumps(record | {"first_token": "prefill"}))
    with pytest.raises(
        IdentityError, match=r"tasks\.sums: `base` was tuned to decode .* tune it with `first_token: dec"
    ):
        preflight(pair(base, own), MACHINE, SCHEMA)
    preflight(pair(base, own, ", any_decoder: true"), MACHINE, SCHEMA)


def test_preflight_of_a_decode_model_that_would_prefill_for_itself_refuses_it(write_checkpoint: Write) -> None:
    """It was tuned on the KV of other weights, and does not understand its own."""
    own = tuned_decoder(write_checkpoint, "0123456789abcdef")
    with pytest.raises(IdentityError, match=r"tasks\.sums: `base` was tuned on prompts that weights 0123456789abcdef"):
        preflight(pair(own, own), MACHINE, SCHEMA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "sun.json: cannot be read"),
        ("[]", "sun.json: its content: Input should be a valid dictionary"),
        ('{"base": "a", "first_token": "prefill"}', "sun.json: decoder: is required"),
    ],
)
def test_a_broken_record_is_named(write_checkpoint: Write, content: str, message: str) -> None:
    math = write_checkpoint("math")
    (math / "sun.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        preflight(pair(math, write_checkpoint("base")), MACHINE, SCHEMA)


def test_a_port_in_use_is_an_error() -> None:
    port = next(PORTS)
    topology = pair("org/a", "org/b", engine=f"{{}}\nrouter: {{port: {port}}}")
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
        s.listen()
        with pytest.raises(
            UserError, match=rf"router: cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"
        ):
            require_router_port(topology)
    require_router_port(topology)


def test_another_machines_address_is_an_error() -> None:
    topology = pair("org/a", "org/b", engine="{}\nrouter: {host: 192.0.2.1}")
    with pytest.raises(UserError, match=r"router: cannot listen on 192\.0\.2\.1:8000"):
        require_router_port(topology)
    with pytest.raises(UserError, match=r"router: cannot listen on no such host:8000"):
        require_router_port(pair("org/a", "org/b", engine='{}\nrouter: {host: "no such host"}'))
