"""A supervised process is started again after every end, until `stop`."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from sun_sglang.errors import EXIT_REFUSED, LaunchError
from sun_sglang.launch.places.local import child, process_group
from sun_sglang.launch.places.local.child import Child, LocalRunning
from sun_sglang.launch.places.place import Address, PlaceLostError, RefusedError, Running
from sun_sglang.launch.state import Phase, ProcessState
from sun_sglang.launch.supervision import supervised_process
from sun_sglang.launch.supervision.supervised_process import SupervisedProcess, describe_end, pause_before
from sun_sglang.processes import start_ticks


@pytest.fixture
def state(tmp_path: Path) -> ProcessState:
    return ProcessState(
        name="math-0",
        pool="math",
        role="prefill",
        phase=Phase.STARTING,
        pid=0,
        url="http://127.0.0.1:1",
        log=tmp_path / "math-0.log",
        restarts=0,
    )


async def sleeper(command: str = "sleep 60", log: Path = Path(os.devnull), log_begin: int = 0) -> LocalRunning:
    process = await asyncio.create_subprocess_shell(f"exec {command}", process_group=0)
    return running_of(process.pid, process.wait(), log, log_begin)


def running_of(pid: int, ended: Awaitable[int], log: Path = Path(os.devnull), log_begin: int = 0) -> LocalRunning:
    return LocalRunning(Address(host="127.0.0.1", port=1), Child(pid, ended), log, log_begin)


async def nothing(_lost: bool) -> None:
    return


class Diary:
    """Notes each new phase of a supervised process."""

    def __init__(
        self,
        state: ProcessState,
        start: Callable[[int], Awaitable[Running]],
        prepare: Callable[[bool], Awaitable[None]] = nothing,
    ) -> None:
        self.process = SupervisedProcess(state, start, self._note, prepare=prepare)
        self.states: list[ProcessState] = []
        self._news = asyncio.Event()

    @property
    def phases(self) -> list[Phase]:
        return [state.phase for state in self.states]

    def _note(self) -> None:
        self.states.append(self.process.state)
        self._news.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the process for a minute at most, and stop it at the end."""
        running = asyncio.create_task(self.process.run())
        async with asyncio.timeout(60):
            yield
        await self.process.stop(30)
        await running

    async def until(self, phase: Phase, restarts: int = 0) -> None:
        while self.phases[-1:] != [phase] or self.process.state.restarts < restarts:
            self._news.clear()
            await self._news.wait()


async def test_start_that_the_system_refuses_is_tried_again(
    state: ProcessState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process, descriptor or disk space left: the supervision brings the worker back later."""
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)

    async def start(restarts: int) -> Running:
        if restarts == 0:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await sleeper()

    diary = Diary(state, start)
    running = asyncio.create_task(diary.process.run())
    async with asyncio.timeout(60):
        await diary.until(Phase.RUNNING)
    assert "Resource temporarily unavailable" in diary.process.state.detail
    await diary.process.stop(1.0)
    await running


async def test_process_that_refuses_to_run_is_not_started_again(state: ProcessState) -> None:
    def start(_: int) -> Awaitable[Running]:
        state.log.write_text("loading\nsun worker: patch `x` did not take\nTraceback of something at exit\n")
        return sleeper(f"sh -c 'exit {EXIT_REFUSED}'", state.log)

    diary = Diary(state, start)
    async with diary.running():
        await diary.until(Phase.FAILED)
        assert diary.process.refusal == diary.process.state.detail == "patch `x` did not take"
    assert diary.phases == [Phase.RUNNING, Phase.FAILED]


async def test_refusal_without_a_reason_is_not_given_that_of_an_earlier_start(state: ProcessState) -> None:
    state.log.write_text("sun worker: patch `x` did not take\n")
    log_begin = state.log.stat().st_size
    diary = Diary(state, lambda _: sleeper(f"sh -c 'exit {EXIT_REFUSED}'", state.log, log_begin))
    async with diary.running():
        await diary.until(Phase.FAILED)
    assert diary.process.refusal == f"exit {EXIT_REFUSED}"


async def test_start_that_a_hook_refuses_is_not_tried_again(state: ProcessState) -> None:
    async def start(_: int) -> Running:
        raise RefusedError("patch `x` did not take")

    diary = Diary(state, start)
    async with diary.running():
        await diary.until(Phase.FAILED)
    assert diary.phases == [Phase.FAILED]
    assert diary.process.refusal == "patch `x` did not take"


async def test_it_is_started_again_and_counts(state: ProcessState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)
    seen: list[int] = []

    async def start(restarts: int) -> Running:
        seen.append(restarts)
        if restarts == 1:
            raise LaunchError("no fork server")
        return await sleeper("false" if restarts == 0 else "sleep 60")

    diary = Diary(state, start)
    running = asyncio.create_task(diary.process.run())
    await diary.until(Phase.RUNNING, restarts=2)
    assert seen == [0, 1, 2]
    assert diary.process.early_ends == 2
    assert diary.process.state.detail == "no fork server"
    await diary.process.stop(grace=30)
    await running
    assert diary.phases[-2:] == [Phase.STOPPING, Phase.STOPPED]
    assert diary.process.state.pid == 0


# --- early ends -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each reading of the clock an hour later, and each pause empty."""
    clock = itertools.count(step=3600)
    monkeypatch.setattr(supervised_process, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)


async def test_end_before_it_served_is_an_early_one_after_any_time_and_shows_its_log(
    state: ProcessState, hours: None
) -> None:
    state.log.write_text("from an earlier start\n")

    def start(restarts: int) -> Awaitable[Running]:
        log_begin = state.log.stat().st_size
        with state.log.open("a") as log:
            log.write(f"loading\nCUDA out of memory, start {restarts}\n")
        return sleeper("false" if restarts < 2 else "sleep 600", state.log, log_begin)

    diary = Diary(state, start)
    async with diary.running():
        await diary.until(Phase.RUNNING, restarts=2)
        assert diary.process.early_ends == 2
        assert [s.log_end for s in diary.states if s.phase == Phase.RESTARTING] == [
            f"loading\nCUDA out of memory, start {i}" for i in (0, 1)
        ]


async def test_end_of_what_served_is_no_early_one(state: ProcessState, hours: None) -> None:
    """The report about the start before may come while the next one runs: it proves nothing."""
    diary = Diary(state, lambda _: sleeper())
    early = []
    async with diary.running():
        for restarts, incarnation in enumerate(("one", "one", "two")):
            await diary.until(Phase.RUNNING, restarts)
            diary.process.serves(incarnation)
            os.kill(diary.process.state.pid, signal.SIGKILL)
            await diary.until(Phase.RUNNING, restarts + 1)
            early.append(diary.process.early_ends)
        # the second start never served: the report named the first one
        assert early == [0, 1, 0]


async def test_process_that_ran_long_enough_counts_as_serving_where_nobody_tells(
    state: ProcessState, hours: None
) -> None:
    process = SupervisedProcess(
        state.model_copy(update={"log_end": "from an early end"}), lambda _: sleeper(), lambda: None
    )
    process.settle()
    running = asyncio.create_task(process.run())
    async with asyncio.timeout(60):
        while process.state.phase != Phase.RUNNING:
            await asyncio.sleep(0)
    process.settle()
    assert process.state.log_end == "from an early end"
    process._steady_after = 60.0
    process.settle()
    assert process.state.log_end == ""
    await process.stop(30)
    await running


async def test_restart_waits_until_the_processes_of_the_last_start_are_gone(
    state: ProcessState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)
    monkeypatch.setattr(process_group, "_GRACE_S", 0.0)
    note, alive = tmp_path / "pid", []

    async def start(restarts: int) -> Running:
        if restarts:
            alive.append(start_ticks(int(await asyncio.to_thread(note.read_text))))
            return await sleeper()
        leader = await asyncio.create_subprocess_shell(f"sleep 600 & echo $! > {note}; exit 1", process_group=0)
        return running_of(leader.pid, leader.wait())

    diary = Diary(state, start)
    async with diary.running():
        await diary.until(Phase.RUNNING, restarts=1)
        assert alive == [None]


async def test_processes_that_nothing_ends_keep_the_next_start_back_and_are_told(
    state: ProcessState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)
    ends = iter([LaunchError("processes [7] did not end"), LaunchError("processes [7] did not end"), None])
    starts: list[int] = []

    async def end_group(_: int) -> None:
        if (error := next(ends, None)) is not None:
            raise error

    async def start(restarts: int) -> Running:
        starts.append(restarts)
        return await sleeper("false" if restarts == 0 else "sleep 60")

    monkeypatch.setattr(child, "end_group", end_group)
    diary = Diary(state, start)
    async with diary.running():
        await diary.until(Phase.RUNNING, restarts=2)
        assert [s.detail for s in diary.states if s.phase == Phase.RESTARTING] == [
            "exit 1; processes [7] did not end",
            "processes [7] did not end",
        ]
        assert starts == [0, 2]


async def test_it_can_be_stopped_while_it_waits_for_what_the_last_start_held(
    state: ProcessState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)
    starts: list[int] = []
    waiting = asyncio.Event()

    async def start(restarts: int) -> Running:
        starts.append(restarts)
        return await sleeper("false")

    async def prepare(_lost: bool) -> None:
        waiting.set()
        await asyncio.Event().wait()

    process = SupervisedProcess(state, start, lambda: None, prepare=prepare)
    running = asyncio.create_task(process.run())
    async with asyncio.timeout(60):
        await waiting.wait()
        await process.stop(30)
        await running
    assert starts == [0]
    assert process.state.phase == Phase.STOPPED


async def test_what_ignores_sigterm_is_killed(state: ProcessState) -> None:
    ends: list[int] = []

    async def start(_: int) -> Running:
        process = await asyncio.create_subprocess_shell(
            "trap '' TERM; echo deaf; exec sleep 600", stdout=asyncio.subprocess.PIPE, process_group=0
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"deaf\n"

        async def ended() -> int:
            ends.append(await process.wait())
            return ends[-1]

        return running_of(process.pid, ended())

    diary = Diary(state, start)
    running = asyncio.create_task(diary.process.run())
    await diary.until(Phase.RUNNING)
    await diary.process.stop(grace=0.5)
    await running
    assert ends == [-signal.SIGKILL]
    assert diary.process.state.phase == Phase.STOPPED


async def test_it_can_be_stopped_while_it_is_started(state: ProcessState) -> None:
    starting, go_on = asyncio.Event(), asyncio.Event()

    async def start(_: int) -> Running:
        starting.set()
        await go_on.wait()
        return await sleeper()

    diary = Diary(state, start)
    running = asyncio.create_task(diary.process.run())
    await starting.wait()
    await diary.process.stop(grace=30)
    go_on.set()
    await running
    assert diary.phases == [Phase.RUNNING, Phase.STOPPING, Phase.STOPPED]


async def test_it_can_be_stopped_during_a_pause(state: ProcessState) -> None:
    diary = Diary(state, lambda _: sleeper("false"))
    running = asyncio.create_task(diary.process.run())
    await diary.until(Phase.RESTARTING)
    await diary.process.stop(grace=30)
    await running
    assert diary.process.state.phase == Phase.STOPPED


def test_pauses_grow_to_half_a_minute() -> None:
    assert [pause_before(n) for n in (1, 2, 3, 4, 7, 40)] == [0.5, 1.0, 2.0, 4.0, 30.0, 30.0]


def test_ends_in_words() -> None:
    assert describe_end(3) == "exit 3"
    assert describe_end(-signal.SIGKILL) == "killed by SIGKILL"
    assert describe_end(-99) == "killed by signal 99"


async def test_signals_to_what_has_ended_are_no_error() -> None:
    ended = await sleeper("true")
    assert await ended.wait() == 0
    await ended.send(signal.SIGTERM)


# --- a machine that the place has lost ------------------------------------------------------------------------------


class LostRunning:
    """A start whose machine is gone: each call about it fails."""

    address = Address(host="127.0.0.1", port=1)
    pid = 7

    async def wait(self) -> int:
        raise PlaceLostError("the node of `math-0` is lost")

    async def wait_gone(self) -> None:
        raise PlaceLostError("the node of `math-0` is lost")

    async def send(self, _number: signal.Signals) -> None:
        raise PlaceLostError("the node of `math-0` is lost")

    async def logs(self, _offset: int = 0) -> AsyncIterator[bytes]:
        raise PlaceLostError("the node of `math-0` is lost")
        yield b""


async def test_process_on_a_lost_machine_is_prepared_as_lost_until_that_succeeds(
    state: ProcessState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)
    prepared: list[bool] = []

    async def prepare(lost: bool) -> None:
        prepared.append(lost)
        if len(prepared) == 1:
            raise LaunchError("no machine has room")

    async def start(restarts: int) -> Running:
        return LostRunning() if restarts == 0 else await sleeper("false" if restarts == 2 else "sleep 60")

    diary = Diary(state, start, prepare)
    async with diary.running():
        await diary.until(Phase.RUNNING, restarts=3)
        assert [s.detail for s in diary.states if s.phase == Phase.RESTARTING] == [
            "the node of `math-0` is lost",
            "no machine has room",
            "exit 1",
        ]
        assert prepared == [True, True, False]


async def test_process_whose_machine_is_lost_while_it_starts_is_prepared_as_lost(
    state: ProcessState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)
    prepared: list[bool] = []

    async def prepare(lost: bool) -> None:
        prepared.append(lost)

    async def start(restarts: int) -> Running:
        if restarts == 0:
            raise PlaceLostError("the node of `math-0` is lost")
        return await sleeper()

    diary = Diary(state, start, prepare)
    async with diary.running():
        await diary.until(Phase.RUNNING, restarts=1)
        assert prepared == [True]


async def test_process_whose_machine_is_lost_while_it_is_stopped_ends(state: ProcessState) -> None:
    class Unreachable(LostRunning):
        """A start whose loss is detected when the supervision sends it a signal."""

        def __init__(self) -> None:
            self.noticed = asyncio.Event()

        async def wait(self) -> int:
            await self.noticed.wait()
            return await super().wait()

        async def send(self, number: signal.Signals) -> None:
            self.noticed.set()
            await super().send(number)

    async def start(_: int) -> Running:
        return Unreachable()

    diary = Diary(state, start)
    running = asyncio.create_task(diary.process.run())
    async with asyncio.timeout(60):
        await diary.until(Phase.RUNNING)
        await diary.process.stop(30)
        await running
    assert diary.phases[-1] == Phase.STOPPED


# --- a restart on request -------------------------------------------------------------------------------------------


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test in which a pause precedes a start."""

    def pause(failures: int) -> float:
        pytest.fail(f"a pause after {failures} failures")

    monkeypatch.setattr(supervised_process, "pause_before", pause)


async def test_restart_begins_the_next_start_at_once_and_counts_as_no_early_end(
    state: ProcessState, no_pause: None
) -> None:
    diary = Diary(state, lambda _: sleeper())
    async with diary.running():
        await diary.until(Phase.RUNNING)
        first = diary.process.state.pid
        await diary.process.restart(grace=60)
        assert start_ticks(first) is None
        await diary.until(Phase.RUNNING, restarts=1)
        assert not diary.process.restart_pending
        assert diary.process.early_ends == 0
        assert diary.process.state.pid != first
        assert diary.process.state.detail == "restarted on request (killed by SIGTERM)"
        assert diary.process.state.log_end == ""
    assert diary.phases[:4] == [Phase.RUNNING, Phase.STOPPING, Phase.RESTARTING, Phase.RUNNING]


async def stubborn() -> LocalRunning:
    """Return a process that ignores SIGTERM."""
    code = "trap '' TERM; echo ready; sleep 600"
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec("sh", "-c", code, process_group=0, stdout=write)
    os.close(write)
    assert await asyncio.to_thread(os.read, read, 16) == b"ready\n"
    os.close(read)
    return running_of(process.pid, process.wait())


async def test_restart_kills_a_process_that_ignores_the_signal(state: ProcessState) -> None:
    diary = Diary(state, lambda restarts: sleeper() if restarts else stubborn())
    async with diary.running():
        await diary.until(Phase.RUNNING)
        await diary.process.restart(grace=0)
        await diary.until(Phase.RUNNING, restarts=1)
        assert diary.process.state.detail == "restarted on request (killed by SIGKILL)"


async def test_restart_during_a_start_ends_that_start(state: ProcessState, no_pause: None) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def start(restarts: int) -> Running:
        if not restarts:
            begun.set()
            await release.wait()
        return await sleeper()

    diary = Diary(state, start)
    async with diary.running():
        await begun.wait()
        await diary.process.restart(grace=60)
        assert diary.process.restart_pending
        release.set()
        await diary.until(Phase.RUNNING, restarts=1)
        assert not diary.process.restart_pending


async def test_restart_of_a_process_that_refused_or_waits_starts_it_at_once(
    state: ProcessState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 3600.0)

    async def start(restarts: int) -> Running:
        if restarts == 0:
            raise RefusedError("patch `x` did not take")
        if restarts == 1:
            raise LaunchError("no room")
        return await sleeper()

    diary = Diary(state, start)
    async with diary.running():
        await diary.until(Phase.FAILED)
        await diary.process.restart(grace=60)
        assert diary.process.refusal is None
        await diary.until(Phase.RESTARTING, restarts=2)
        assert diary.process.early_ends == 1
        await diary.process.restart(grace=60)
        assert diary.process.early_ends == 0
        await diary.until(Phase.RUNNING, restarts=2)


async def test_restart_whose_preparation_fails_pauses_before_it_is_tried_again(
    state: ProcessState, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []

    def pause(failures: int) -> float:
        pauses.append(failures)
        return 0.0

    monkeypatch.setattr(supervised_process, "pause_before", pause)
    fails = iter([LaunchError("no room"), LaunchError("no room"), None])

    async def prepare(_lost: bool) -> None:
        if (error := next(fails)) is not None:
            raise error

    diary = Diary(state, lambda _: sleeper(), prepare)
    async with diary.running():
        await diary.until(Phase.RUNNING)
        await diary.process.restart(grace=60)
        await diary.until(Phase.RUNNING, restarts=3)
    assert pauses == [1, 2]


async def test_stop_during_a_restart_starts_nothing_more(state: ProcessState) -> None:
    starts: list[int] = []

    async def start(restarts: int) -> Running:
        starts.append(restarts)
        return await stubborn()

    diary = Diary(state, start)
    async with diary.running():
        await diary.until(Phase.RUNNING)
        restarting = asyncio.create_task(diary.process.restart(grace=3600))
        await diary.until(Phase.STOPPING)
        await diary.process.stop(grace=0)
        await restarting
        await diary.process.restart(grace=0)
    assert starts == [0]
    assert diary.phases[-1] == Phase.STOPPED
