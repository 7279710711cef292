"""The installation: what `sun doctor` finds."""

from __future__ import annotations

import json
from typing import Any

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.errors import CheckError, require
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.processes import run_sun


def doctor(context: Context) -> dict[str, Any]:
    """Run `sun doctor`; it must report no bad finding and no missing hook."""
    done = run_sun("doctor", "--json")
    try:
        report = json.loads(done.stdout)
    except ValueError as e:
        raise CheckError(f"`sun doctor` printed no report: {done.stderr[-2000:]}") from e
    bad = [f"{f['what']}: {f['detail']}" for f in report["findings"] if f["state"] == "bad"]
    bad += [f"hook {p['name']} is {p['state']}: {p['detail']}" for p in report["patches"] if p["state"] == "missing"]
    require(bool(report["ok"]), "; ".join(bad) or "`sun doctor` reports a fault")
    states = {p["target"].rpartition("sglang.srt.")[2]: p["state"] for p in report["patches"]}
    return {"findings": {f["what"]: f["detail"] for f in report["findings"]}, "hooks": states}


STAGES = (Stage("doctor", "installation: versions, devices, hooks", doctor),)
