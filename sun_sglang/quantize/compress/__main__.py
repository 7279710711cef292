"""Run one job: `python -m sun_sglang.quantize.compress JOB.json`.

Standard output carries events (`quantize/job.py`), standard error everything that libraries print. The process ends
when its standard input does: then `sun quantize` is gone.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from sun_sglang.quantize.job import Event, Failed, Finished, Job, Progress, Quality, Stage


def main(file: Path) -> int:
    """Run the job of a file; return the exit status."""
    events = _take_output()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    job = Job.model_validate_json(file.read_bytes())

    def send(event: Event) -> None:
        events.write(event.model_dump_json() + "\n")
        events.flush()

    try:
        quality = _run(job, lambda stage, done, total: send(Progress(stage=stage, done=done, total=total)))
    except Exception as e:  # libraries raise anything; the trace is on standard error
        import traceback

        traceback.print_exc()
        send(Failed(reason=f"{type(e).__name__}: {e}"))
        return 1
    send(Finished(quality=quality))
    return 0


def _run(job: Job, report: Callable[[Stage, int, int], None]) -> Quality | None:
    import torch

    from sun_sglang.quantize.compress.calibrate import calibrate
    from sun_sglang.quantize.compress.checkpoints import load_dequantized, load_source, save_packed
    from sun_sglang.quantize.compress.measure import compare, record

    torch.manual_seed(job.seed)
    if job.threads:
        torch.set_num_threads(job.threads)
    report("load", 0, 1)
    model = load_source(Path(job.model))
    report("load", 1, 1)
    reference = record(model, job.held_out, lambda done, total: report("reference", done, total))
    calibrate(model, job, lambda done, total: report("calibrate", done, total))
    report("save", 0, 1)
    save_packed(model, Path(job.output))
    report("save", 1, 1)
    del model
    if not job.held_out:
        return None
    # of what was written, and not of what was in memory
    written = load_dequantized(Path(job.output))
    return compare(written, reference, lambda done, total: report("measure", done, total))


def _take_output() -> TextIO:
    """Return standard output for events, and send to standard error what libraries print."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
