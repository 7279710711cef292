"""Copies of modules in shared memory: verified, one for all processes, gone with the last of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sun_sglang.checkpoint.module.host_copies import HostCopies, remove_unused
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.errors import CheckpointError

Write = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "shared"


def test_copy_that_two_workers_hold_stays_until_both_gave_it_up(write_checkpoint: Write, root: Path) -> None:
    model = write_checkpoint("a")
    revision = weights_revision(model)
    one, other = HostCopies(root), HostCopies(root)
    one.hold(revision, model)
    file = next(one.path(revision).glob("*.safetensors"))
    first = file.stat().st_ino
    other.hold(revision, model)
    assert file.stat().st_ino == first, "copied once"
    one.release(revision)
    assert file.exists()
    other.release(revision)
    assert list(root.iterdir()) == []


def test_module_whose_files_were_changed_is_refused_and_leaves_nothing(write_checkpoint: Write, root: Path) -> None:
    model, changed = write_checkpoint("a"), write_checkpoint("b", weights=b"others")
    revision = weights_revision(model)
    copies = HostCopies(root)
    with pytest.raises(CheckpointError, match=f"{revision} are expected; its files were changed"):
        copies.hold(revision, changed)
    assert list(root.iterdir()) == []
    copies.hold(revision, model)
    assert copies.path(revision).is_dir()


def test_copy_is_read_and_checked_and_not_the_source(write_checkpoint: Write, root: Path) -> None:
    model = write_checkpoint("a")
    revision = weights_revision(model)
    copies = HostCopies(root)
    copies.hold(revision, model)
    for file in model.glob("*.safetensors"):
        file.write_bytes(b"overwritten")
    assert weights_revision(copies.path(revision)) == revision


def test_module_that_does_not_fit_into_the_memory_names_both_sizes(
    write_checkpoint: Write, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_checkpoint("a")
    copies = HostCopies(root)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(CheckpointError, match=r"has room for 10; enlarge this file system .*host_memory_gb"):
        copies.hold(weights_revision(model), model)


def test_directory_that_others_may_write_is_refused(root: Path) -> None:
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(CheckpointError, match="not a directory of this user alone"):
        HostCopies(root)


def test_directory_that_is_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="not a directory of this user alone"):
        HostCopies(root)


def test_copies_of_a_killed_process_are_removed_and_those_of_a_living_one_stay(
    write_checkpoint: Write, root: Path
) -> None:
    model, other = write_checkpoint("a"), write_checkpoint("b", weights=b"others")
    alive = HostCopies(root)
    alive.hold(weights_revision(other), other)
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from sun_sglang.checkpoint.module.host_copies import HostCopies\n"
        "HostCopies(Path(sys.argv[1])).hold(sys.argv[2], Path(sys.argv[3]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(root), weights_revision(model), str(model)], check=False, env=os.environ
    )
    assert killed.returncode < 0
    assert (root / weights_revision(model)).is_dir()
    remove_unused(root)
    assert not (root / weights_revision(model)).exists()
    assert alive.path(weights_revision(other)).is_dir()
    alive.close()
    assert list(root.iterdir()) == []


def test_half_a_copy_of_a_killed_process_is_removed(root: Path) -> None:
    HostCopies(root)
    half = root / "0123456789abcdef.xyz"
    half.mkdir()
    (root / "0123456789abcdef.lock").touch()
    remove_unused(root)
    assert list(root.iterdir()) == []


def test_removal_without_a_directory_does_nothing(root: Path) -> None:
    remove_unused(root)
    assert not root.exists()


def test_workers_that_come_and_go_together_never_lose_a_copy_that_they_hold(
    write_checkpoint: Write, root: Path
) -> None:
    model = write_checkpoint("a")
    revision = weights_revision(model)

    def come_and_go(copies: HostCopies) -> bool:
        for _ in range(50):
            copies.hold(revision, model)
            if weights_revision(copies.path(revision)) != revision:
                return False
            copies.release(revision)
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(come_and_go, [HostCopies(root) for _ in range(4)]))
    assert list(root.iterdir()) == []


def test_half_of_a_copy_whose_removal_was_cut_off_is_never_used(
    write_checkpoint: Write, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_checkpoint("a")
    revision = weights_revision(model)
    one, other = HostCopies(root), HostCopies(root)
    one.hold(revision, model)

    def cut_off(directory: Path, *, ignore_errors: bool) -> None:
        for file in directory.glob("*.safetensors"):
            file.unlink()

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", cut_off)
        one.release(revision)
    other.hold(revision, model)
    assert weights_revision(other.path(revision)) == revision
    other.release(revision)
    assert list(root.iterdir()) == []


def test_half_of_a_copy_whose_removal_at_a_stop_was_cut_off_is_never_used(
    write_checkpoint: Write, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_checkpoint("a")
    revision = weights_revision(model)
    copies = HostCopies(root)
    shutil.copytree(model, copies.path(revision))
    (root / f"{revision}.lock").touch()

    class Killed(BaseException):
        pass

    def cut_off(directory: Path, *, ignore_errors: bool) -> None:
        if directory.exists():
            (directory / "model.safetensors").unlink()
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", cut_off)
        with pytest.raises(Killed):
            remove_unused(root)
    copies.hold(revision, model)
    assert weights_revision(copies.path(revision)) == revision
    copies.release(revision)
    assert list(root.iterdir()) == []


def test_copy_that_was_made_again_while_it_was_looked_at_stays(
    write_checkpoint: Write, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_checkpoint("a")
    revision = weights_revision(model)
    one, other = HostCopies(root), HostCopies(root)
    one.hold(revision, model)
    lock = fcntl.flock

    def make_again_before(file: int, kind: int) -> None:
        monkeypatch.setattr("fcntl.flock", lock)
        one.release(revision)
        other.hold(revision, model)
        lock(file, kind)

    monkeypatch.setattr("fcntl.flock", make_again_before)
    remove_unused(root)
    assert other.path(revision).is_dir()
    other.release(revision)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("lost", ["the shared memory", "a file"])
def test_module_that_cannot_be_copied_is_one_error(
    write_checkpoint: Write, root: Path, tmp_path: Path, lost: str
) -> None:
    model = write_checkpoint("a")
    revision = weights_revision(model)
    copies = HostCopies(root)
    if lost == "a file":
        (model / "model.safetensors").unlink()
        (model / "model.safetensors").symlink_to(tmp_path / "nowhere")
    else:
        root.rmdir()
    with pytest.raises(CheckpointError, match="cannot be copied to"):
        copies.hold(revision, model)
