"""Run discovery in the router's pod; see the package's documentation for the command."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from sun_sglang.contracts.worker_key import read_key
from sun_sglang.errors import SunError, UserError
from sun_sglang.kubernetes.discovery.pods import Event, Pod
from sun_sglang.kubernetes.discovery.reconciler import Reconciler
from sun_sglang.kubernetes.discovery.watch import PodWatch
from sun_sglang.kubernetes.labels import WORKER, selector
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient


def require_client() -> None:
    """Raise unless the package of the API server's client is installed.

    Raises:
        UserError: names the extra.
    """
    try:
        import kubernetes.client
        import kubernetes.config
        import kubernetes.watch  # noqa: F401 - its presence is what is checked
    except ImportError as e:
        raise UserError(f"discovery needs the Kubernetes client: pip install 'sun-sglang[kubernetes]' ({e})") from e


async def discover(namespace: str, instance: str, router: str, run_dir: Path, stop: asyncio.Event) -> None:
    """Keep the router's workers in step with the pods until `stop` is set.

    Args:
        namespace: of the pods.
        instance: name of the deployment.
        router: URL of the router.
        run_dir: directory with the router's admin key and its fleet file.
        stop: ends it.
    """
    from kubernetes import client, config

    config.load_config()
    loop = asyncio.get_running_loop()
    reconciler = Reconciler(
        lambda: RouterClient(router, read_access(run_dir)), f"{instance}-", read_key(os.environ), _say
    )

    def listed(pods: list[Pod]) -> None:
        loop.call_soon_threadsafe(reconciler.take_list, pods)

    def changed(event: Event) -> None:
        loop.call_soon_threadsafe(reconciler.take_event, event)

    def failed(reason: str) -> None:
        loop.call_soon_threadsafe(reconciler.note_failure, reason)

    labels = ",".join(f"{name}={value}" for name, value in selector(instance, WORKER).items())
    watch = PodWatch(client.CoreV1Api(), namespace, labels, listed=listed, changed=changed, failed=failed)
    # a daemon: a blocking read must not delay the end of the process
    threading.Thread(target=watch.run, name="pod-watch", daemon=True).start()
    running = asyncio.create_task(reconciler.run())
    ended = asyncio.create_task(stop.wait())
    await asyncio.wait((running, ended), return_when=asyncio.FIRST_COMPLETED)
    watch.stop()
    if running.done():
        running.result()
    running.cancel()


def _say(line: str) -> None:
    sys.stderr.write(f"discovery: {line}\n")
    sys.stderr.flush()


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await discover(arguments.namespace, arguments.instance, arguments.router, arguments.run_dir, stop)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.kubernetes.discovery", allow_abbrev=False)
    parser.add_argument("--namespace", required=True, help="namespace of the pods")
    parser.add_argument("--instance", required=True, help="name of the deployment: `sun export kubernetes --name`")
    parser.add_argument("--router", required=True, help="URL of the router")
    parser.add_argument("--run-dir", required=True, type=Path, help="directory with the router's admin key")
    arguments = parser.parse_args(argv)
    try:
        require_client()
        asyncio.run(_main(arguments))
    except SunError as e:
        _say(str(e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
