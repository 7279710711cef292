from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.bench.serving.systems.launcher import Launcher
from sun_sglang.errors import LaunchError


async def test_launcher_that_ends_at_once_shows_the_end_of_its_output(tmp_path: Path) -> None:
    launcher = Launcher(["no_such_module"], tmp_path)
    with pytest.raises(LaunchError, match=r"it did not start: the end of .*supervisor\.log:\n.*No module named"):
        await launcher.start()
    await launcher.stop()


async def test_launcher_that_reports_an_error_shows_it_whole_and_alone(tmp_path: Path) -> None:
    # a module of Python that prints what it is told, and ends
    (tmp_path / "text").write_text("starting\nerror: `base-0` ended; the end of its log:\nno weights\n")
    launcher = Launcher(["timeit", "-n1", "-r1", f"print(open({str(tmp_path / 'text')!r}).read())"], tmp_path)
    with pytest.raises(LaunchError) as raised:
        await launcher.start()
    assert str(raised.value).startswith("it did not start: `base-0` ended; the end of its log:\nno weights")
    await launcher.stop()
    await launcher.stop()
