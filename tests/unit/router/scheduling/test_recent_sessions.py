from __future__ import annotations

import pytest

from sun_sglang.router.scheduling.recent_sessions import RecentSessions, session_name


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def continues(sessions: RecentSessions, name: str | None = "a", owner: str = "") -> bool:
    """Send a request that is answered at once."""
    with sessions.request(session_name(owner, name)) as found:
        return found


def test_session_continues_from_its_first_answer_on() -> None:
    sessions = RecentSessions(Clock())
    assert [continues(sessions) for _ in range(3)] == [False, True, True]
    assert [continues(sessions, "b"), continues(sessions, "b")] == [False, True]


def test_session_without_a_name_or_of_another_client_never_continues() -> None:
    sessions = RecentSessions(Clock())
    assert not any(continues(sessions, None) for _ in range(3))
    assert len(sessions) == 0
    assert not continues(sessions, owner="one")
    assert not continues(sessions, owner="two")
    assert continues(sessions, owner="one")


def test_session_has_one_request_at_a_time_that_continues_it() -> None:
    """One name must not take any number of requests to the front."""
    sessions = RecentSessions(Clock())
    continues(sessions)
    with sessions.request(session_name("", "a")) as first, sessions.request(session_name("", "a")) as second:
        assert (first, second) == (True, False)
    assert continues(sessions)


def test_session_whose_request_failed_does_not_continue() -> None:
    sessions = RecentSessions(Clock())
    with pytest.raises(KeyError), sessions.request(session_name("", "a")):
        raise KeyError
    assert not continues(sessions)
    assert continues(sessions)


def test_session_that_was_idle_for_long_is_new() -> None:
    clock = Clock()
    sessions = RecentSessions(clock, idle=10.0)
    continues(sessions)
    clock.time += 10.0
    assert continues(sessions)
    clock.time += 10.5
    assert not continues(sessions)


def test_sessions_that_are_remembered_are_bounded_and_the_oldest_is_forgotten() -> None:
    sessions = RecentSessions(Clock(), remembered=3)
    for number in range(10):
        continues(sessions, f"{number}")
    assert len(sessions) == 3
    assert continues(sessions, "9")
    assert not continues(sessions, "6")
    # one that is forgotten while its request is in flight ends as any other
    with sessions.request(session_name("", "x")):
        for number in range(10):
            continues(sessions, f"{number}")
    assert not continues(sessions, "x")
