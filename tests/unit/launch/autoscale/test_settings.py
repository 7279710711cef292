"""The costs of pools that size themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.errors import UserError
from sun_sglang.launch.autoscale.settings import read_scaling
from sun_sglang.topology import Topology
from sun_sglang.topology_file import parse_topology

TEXT = """
pools:
  base: {role: decode, model: none/base%s}
  math: {role: prefill, model: none/math}
tasks: {math: {prefill: math, decode: base}}
backend: emulated
autoscale: {pool: base, max: 4, slo: {tpot: 25ms}%s}
"""


def topology(base: Path, emulated: str = "", costs: str = "") -> Topology:
    return parse_topology(
        TEXT % (f", emulated: {{costs: {emulated}}}" if emulated else "", f", costs: {costs}" if costs else ""),
        base=base,
    )


def test_own_costs_win_over_those_of_emulated_workers(tmp_path: Path) -> None:
    for name, step in (("own", 0.01), ("emulated", 0.02)):
        (tmp_path / f"{name}.yaml").write_text(f"{{decode_step: {step}, decode_per_request: 1.0e-4}}")
    (found,) = read_scaling(topology(tmp_path, "emulated.yaml", "own.yaml"))
    assert found.costs is not None
    assert found.costs.decode_step == 0.01
    (found,) = read_scaling(topology(tmp_path, "emulated.yaml"))
    assert found.costs is not None
    assert found.costs.decode_step == 0.02


@pytest.mark.parametrize(
    ("costs", "content", "message"),
    [
        ("", "", "autoscale.0.costs: is required: the emulated workers of `base` have no `costs`"),
        ("no.yaml", "", r"autoscale\.0\.costs: .*no\.yaml: cannot be read"),
        ("c.yaml", "prefill: 0.001", r"autoscale\.0\.costs: in .*c\.yaml a decode step takes no time"),
        ("c.yaml", "{decode_step: 0.03, decode_per_request: 1.0e-4}", r"autoscale\.0\.slo\.tpot: no number of workers"),
    ],
)
def test_costs_that_cannot_size_a_pool_are_one_error(tmp_path: Path, costs: str, content: str, message: str) -> None:
    if content:
        (tmp_path / costs).write_text(content)
    with pytest.raises(UserError, match=message):
        read_scaling(topology(tmp_path, "", costs))
