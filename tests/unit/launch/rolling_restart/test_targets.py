"""Which workers a restart means, and the errors of a request that means none."""

from __future__ import annotations

import pytest

from sun_sglang.errors import UserError
from sun_sglang.launch.rolling_restart.messages import RestartRequest
from sun_sglang.launch.rolling_restart.targets import Member, Target, choose

# the pool `base-0` has the name of a worker of the pool `base`
FLEET = [
    Member("base-0", "base", "http://a:1", "ready"),
    Member("base-1", "base", "http://a:2", "absent"),
    Member("base-2", "base", "http://a:3", "leaving"),
    Member("base-0-0", "base-0", "http://a:4", "ready"),
    Member("math-0", "math", "http://a:5", "ready"),
    Member("guest", "math", "http://b:1", "ready"),
    # removed, and added again elsewhere under the same name
    Member("solo-0", "solo", "http://b:2", "ready"),
]
LAUNCHED = {
    **{name: url for name, _, url, _ in FLEET if url.startswith("http://a")},
    "solo-0": "http://a:6",
    "gone-0": "http://a:7",
}


def meant(name: str | None = None, pool: str | None = None) -> Target:
    return choose(RestartRequest(name=name, pool=pool, timeout=1), FLEET, LAUNCHED)


def test_restart_means_a_pool_or_a_worker() -> None:
    assert meant("base") == meant(pool="base") == Target("base", ("base-0", "base-1"))
    assert meant("base-1") == Target("base", ("base-1",))
    assert meant("base-0", pool="base") == Target("base", ("base-0",))
    assert meant(pool="base-0") == Target("base-0", ("base-0-0",))
    assert meant("math-0") == Target("math", ("math-0",))


@pytest.mark.parametrize(
    ("name", "pool", "error"),
    [
        (None, None, "name a pool or a worker to restart"),
        (
            "base-0",
            None,
            r"`base-0` is a pool, and a worker of the pool `base`; give `--pool base-0` .* `base-0 --pool",
        ),
        ("sums", None, "no pool and no worker is named `sums`; pools: `base`, `base-0`, .*; workers: `base-0`, "),
        ("base-2", None, "the router does not use `base-2`: it was removed"),
        ("gone-0", None, "the router does not use `gone-0`: it was removed"),
        (None, "sums", "no worker is in a pool `sums`; pools: `base`, "),
        ("math-0", "base", "pool `base` has no worker `math-0`; its workers: `base-0`, `base-1`"),
        ("guest", None, r"added by URL, so this launcher cannot restart it: `guest`; .* resume NAME`$"),
        ("solo", None, r"added by URL, so this launcher cannot restart it: `solo-0`; .* resume NAME`$"),
        ("math", None, r"cannot restart it: `guest`; .*\. The launcher's own can be restarted by name: `math-0`$"),
    ],
)
def test_request_that_means_no_worker_of_the_launcher_is_one_error(
    name: str | None, pool: str | None, error: str
) -> None:
    with pytest.raises(UserError, match=error):
        meant(name, pool)
