"""A load generator for many models behind one endpoint: what `sun bench` sends, how it sends it, and what it measures.

Packages, from the top; imports point down only:

    drive/      when a request starts and when a run ends: open loop, closed loop, sessions, warm-up and window
    client/     one streamed request, its record, and the client's own load
    metrics/    records -> latencies, throughput, goodput, fairness; in total and for each task (pure)
    workload/   settings and a seed -> which prompt is sent to which task, and when (pure; open it first)
    traces/     recorded traffic of other projects, in the shape that `workload/` takes

`errors.py` has the one exception for a user's mistake. Does not belong here: what a deployment is, how one is launched,
tables, files of results (`bench/serving/`). Nothing here needs torch, SGLang or a tokenizer.
"""
