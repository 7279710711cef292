"""The router's reports to its operator: metrics, log lines, and the ids that connect them.

Belongs here: definitions of metrics, the log and its writer, the context of the request that is handled. Does not
belong here: what a metric or an event means to serving; each room counts and logs its own events. No module here
imports a room above `protocol`.

To add a metric, define it in `metrics.py`, count it in the room where the event happens, and add a panel to
`configs/grafana/router.json` (a test compares the dashboard with the metrics). A gauge that depends on current state is
set in `api/endpoints/metrics_page.py`. To add a log event, call `log.event("name", ...)` where it happens. First file:
`metrics.py`.
"""
