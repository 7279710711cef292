"""Reports of requests that ended.

Belongs here: the log line, the metrics and the trace of a request. First file: `request_end.py`; `tracing.py` exports
spans to OpenTelemetry.
"""
