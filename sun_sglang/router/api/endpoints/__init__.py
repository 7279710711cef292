"""The handlers of endpoints, which are thin: read a request, call a lower package, respond.

Belongs here: one file for each subject. `generation.py`: requests for text; `tokens.py`: tokens and their number;
`info.py`: models, workers and caches; `health.py`: probes; `admin.py`: changes of the fleet; `tasks_page.py` and
`metrics_page.py`: pages; `small_body.py`: bodies of commands. Does not belong here: paths and access rules
(`api/routes.py`). First file: `generation.py`.
"""
