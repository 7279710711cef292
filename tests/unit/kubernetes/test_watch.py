"""The watch of the pods, with the real client against a fake API server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.kubernetes.discovery import watch as module
from sun_sglang.kubernetes.discovery.pods import PodTable
from sun_sglang.kubernetes.discovery.watch import PodWatch, Timing
from tests.support.fake_kubernetes import FakeKubernetes, fake_kubernetes, pod

SELECTOR = "app.kubernetes.io/instance=sun,app.kubernetes.io/component=worker"


class Seen(PodTable):
    """The pods that a watch has reported."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []
        self.lists = 0

    @property
    def names(self) -> list[str] | None:
        return None if self.pods is None else sorted(self.pods)


Watch = Callable[[], Seen]


@pytest.fixture
async def server() -> AsyncIterator[FakeKubernetes]:
    async with fake_kubernetes() as fake:
        yield fake


@pytest.fixture
async def watch(server: FakeKubernetes) -> AsyncIterator[Watch]:
    started: list[tuple[PodWatch, threading.Thread]] = []
    loop = asyncio.get_running_loop()

    def start() -> Seen:
        seen = Seen()
        watcher = PodWatch(
            server.api(),
            "serving",
            SELECTOR,
            listed=lambda pods: loop.call_soon_threadsafe(seen.replace, pods),
            changed=lambda event: loop.call_soon_threadsafe(seen.apply, event),
            failed=lambda reason: loop.call_soon_threadsafe(seen.failures.append, reason),
            timing=Timing(pause_min=0.01, pause_max=0.02),
        )
        thread = threading.Thread(target=watcher.run)
        thread.start()
        started.append((watcher, thread))
        return seen

    yield start
    for watcher, _ in started:
        watcher.stop()
    server.close()
    for _, thread in started:
        await asyncio.to_thread(thread.join)


async def test_pods_are_listed_in_pages_and_followed(
    server: FakeKubernetes, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    for number in range(5):
        server.put(pod(f"sun-base-{number}"))
    server.put(pod("other-0", instance="other"))
    seen = watch()
    await wait_until(lambda: seen.names, accept=lambda names: names == [f"sun-base-{n}" for n in range(5)])
    assert len(server.lists) == 3
    await wait_until(lambda: server.watching)
    server.put(pod("sun-base-5", address=None))
    server.put(pod("sun-base-5", address="fd00::5"))
    server.mark_deleted("sun-base-0")
    server.remove("sun-base-1")
    await wait_until(lambda: "sun-base-1" not in (seen.names or ()))
    assert seen.pods is not None
    assert seen.pods["sun-base-5"].url == "http://[fd00::5]:30000"
    assert seen.pods["sun-base-0"].leaving
    assert len(server.lists) == 3, "events are enough"
    assert not seen.failures


async def test_a_watch_that_the_server_ends_goes_on_from_its_bookmark(server: FakeKubernetes, watch: Watch) -> None:
    seen = watch()
    await wait_until(lambda: server.watching)
    version = server.bookmark()
    server.end_watches()
    await wait_until(lambda: len(server.watches) == 2 and server.watching)
    assert server.watches[1]["resourceVersion"] == str(version)
    assert server.watches[1]["allowWatchBookmarks"] == "True"
    server.put(pod("sun-base-0"))
    await wait_until(lambda: seen.names == ["sun-base-0"])
    assert len(server.lists) == 1
    assert not seen.failures


@pytest.mark.parametrize("how", ["event", "compacted"])
async def test_a_version_that_has_expired_lists_again(server: FakeKubernetes, watch: Watch, how: str) -> None:
    server.put(pod("sun-base-0"))
    seen = watch()
    await wait_until(lambda: server.watching)
    async with server.unseen():
        server.remove("sun-base-0")
        server.put(pod("sun-base-1"))
    if how == "event":
        server.expire()
    else:
        server.compact()
        server.end_watches()
    await wait_until(lambda: seen.names == ["sun-base-1"])
    assert not seen.failures, "that is no failure"


async def test_an_outage_changes_no_pod_and_what_happened_meanwhile_is_seen_after_it(
    server: FakeKubernetes, watch: Watch
) -> None:
    server.put(pod("sun-base-0"))
    seen = watch()
    await wait_until(lambda: server.watching)
    server.down = True
    server.end_watches()
    await wait_until(lambda: len(seen.failures) > 2)
    assert seen.names == ["sun-base-0"]
    assert "does not answer" in seen.failures[0]
    server.put(pod("sun-base-1"))
    server.down = False
    await wait_until(lambda: seen.names == ["sun-base-0", "sun-base-1"])


@pytest.mark.parametrize(("status", "said"), [(403, "needs get, list and watch"), (503, "answers 503")])
async def test_a_refusal_names_its_status(server: FakeKubernetes, watch: Watch, status: int, said: str) -> None:
    server.status = status
    seen = watch()
    await wait_until(lambda: seen.failures)
    assert said in seen.failures[0]
    assert seen.pods is None
    server.status = 0
    await wait_until(lambda: seen.names == [])
