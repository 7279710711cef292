"""From a topology to running workers.

Open `deployment.py` first: it checks a topology, plans it (`planning/`), and supervises it (`supervision/`) at a place
(`places/`). While it runs, it takes commands (`control/`) and restarts workers (`rolling_restart/`). Here too: the
files of a run directory (`discovery.py`, `state.py`, `claim.py`), the client of the router (`router_client.py`,
`router_access.py`), a launcher in the background (`detached.py`), and the inspection of a machine (`doctor.py`). Not
here: what a worker does once it runs (`sun_sglang.worker`, `emulator`), and the router.

Where to look when a worker does not start, or starts again and again:

    with wrong flags                planning/planner.py; `sun check --json` prints its command
    refused before any start        planning/preflight.py
    the start itself fails          places/local/start_methods.py, fork_start.py, fork_server.py; logs/fork-server.log
    it ends before it is ready      its log; `supervision/supervised_process.py` decides about the next start
    the next start does not come    places/local/process_group.py and gpu_memory.py: something of the last start is left
    it runs and gets no requests    the router's reason in `sun status`; supervision/readiness.py ends such a launch
"""
