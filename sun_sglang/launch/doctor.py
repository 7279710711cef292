"""Inspect this machine: versions, devices, KV transfer, and the state of each hook in the installed SGLang."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
from typing import Literal, NamedTuple

from sun_sglang.contracts.worker_card import PatchReport
from sun_sglang.errors import PatchError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.hardware.rdma import RdmaDevice
from sun_sglang.patches.versions import PLUGINS_VARIABLE, installed_version, require_plugin_selected, require_supported
from sun_sglang.sglang_versions import SUPPORTED_VERSIONS
from sun_sglang.strict import Strict

_MARK = "sun-patches:"
# the module of each transfer package that loads its native library
_NATIVE = {"mooncake": "mooncake.engine", "nixl": "nixl._api"}


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        what: the thing that was inspected.
        state: `bad` makes `sun doctor` fail.
        detail: what was found.
    """

    what: str
    state: Literal["ok", "note", "bad"]
    detail: str


class PatchLine(Strict):
    """A hook on SGLang, and its state in this machine's SGLang (`unknown` where none is installed)."""

    name: str
    target: str
    why: str
    versions: dict[str, str]
    removable_when: str
    state: str
    detail: str = ""


def version_findings() -> list[Finding]:
    """Return the versions of Python, SGLang and torch; SGLang's is compared with the supported ones."""
    found = [Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    found.append(sglang_finding(installed_version()))
    found += plugin_findings()
    torch = _version("torch")
    found.append(Finding("torch", "ok" if torch else "note", torch or "not installed"))
    return found


def sglang_finding(installed: str | None) -> Finding:
    """Compare the installed version of SGLang (None: not installed) with the supported versions."""
    if installed is None:
        known = ", ".join(SUPPORTED_VERSIONS)
        return Finding("sglang", "note", f"not installed: workers need one of {known}, the router and `sun` do not")
    try:
        require_supported(installed)
    except PatchError as e:
        return Finding("sglang", "bad", str(e))
    return Finding("sglang", "ok" if installed in SUPPORTED_VERSIONS else "note", installed)


def plugin_findings() -> list[Finding]:
    """Return the variable that makes SGLang skip the hooks; empty where none does."""
    try:
        require_plugin_selected()
    except PatchError as e:
        return [Finding(PLUGINS_VARIABLE, "bad", str(e))]
    return []


def machine_findings(machine: Machine) -> list[Finding]:
    """Return the machine's GPUs, cores, memory and RDMA devices."""
    gpus = ", ".join(f"{g.index}: {g.name}" for g in machine.gpus) or "none: workers run on the CPU"
    found = Finding("gpus", "bad", machine.gpu_problem) if machine.gpu_problem else Finding("gpus", "ok", gpus)
    bf16 = "multiplies bfloat16" if machine.cpu_bf16 else "does not multiply bfloat16: float32 is the default"
    return [
        found,
        Finding("cpu", "ok", f"{machine.cores} cores, {machine.memory / 2**30:.1f} GiB; the processor {bf16}"),
        *([_rdma_finding(device) for device in machine.rdma] or [Finding("rdma", "ok", "no device")]),
    ]


def _rdma_finding(device: RdmaDevice) -> Finding:
    return Finding("rdma", "note" if device.obstacle else "ok", str(device))


def transfer_findings(machine: Machine) -> list[Finding]:
    """Return whether each KV transfer package can be imported with its native libraries."""
    found = [_import_finding(package) for package in sorted(machine.transfer_packages)]
    return found or [Finding("kv transfer", "note", "neither mooncake nor nixl is installed: workers need one")]


def patch_lines() -> tuple[list[PatchLine], Finding | None]:
    """Return every hook with its state in a process that loads SGLang as a worker does, and what went wrong there."""
    from sun_sglang.patches import ALL

    reports: dict[str, PatchReport] = {}
    trouble = None
    if importlib.util.find_spec("sglang"):
        done = _python("from sun_sglang.launch.doctor import print_patches; print_patches()")
        lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
        if done.returncode == 0 and lines:
            parsed = [PatchReport.model_validate(r) for r in json.loads(lines[-1].removeprefix(_MARK))]
            reports = {r.target: r for r in parsed}
        else:
            trouble = Finding("patches", "bad", f"SGLang cannot be imported: {_last_line(done.stderr)}")
    return [_line(patch, reports.get(patch.target)) for patch in ALL], trouble


def print_patches() -> None:
    """Load SGLang with its plugins and print the state of every hook. `patch_lines` runs this in another process."""
    from sun_sglang.worker.server import prepare_process

    prepare_process()
    from sglang.srt.plugins import load_plugins

    from sun_sglang.patches import status

    load_plugins()
    reports = [report.model_dump() for report in status()]
    sys.stdout.write(f"\n{_MARK}{json.dumps(reports)}\n")


def _line(patch: object, report: PatchReport | None) -> PatchLine:
    fields = {name: getattr(patch, name) for name in ("name", "target", "why", "versions", "removable_when")}
    if report is None:
        return PatchLine(**fields, state="unknown", detail="SGLang could not be inspected")
    return PatchLine(**fields, state=report.state, detail=report.detail)


def _import_finding(package: str) -> Finding:
    done = _python(f"import {_NATIVE[package]}")
    if done.returncode == 0:
        return Finding(package, "ok", "can be imported")
    return Finding(package, "bad", f"is installed and cannot be imported: {_last_line(done.stderr)}")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
