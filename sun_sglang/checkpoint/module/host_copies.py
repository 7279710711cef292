"""Copies of modules in shared memory: one for all workers of this user on a machine, gone with the last of them.

A copy is a directory named by the revision of the weights, with the module's safetensors files. The revision is
computed from the copy, so that nobody can change a module after the check, and a change of weights reads from memory
that no disk is behind. Each worker that uses a copy holds a shared lock on a file beside it; the kernel drops the lock
when the process ends. Whoever gets the exclusive lock may remove the copy.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sun_sglang.checkpoint.completeness.stored import INDEX
from sun_sglang.checkpoint.tensor_file import safetensors_of
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.errors import CheckpointError

_LOCK, _LEAVING = ".lock", ".leaving"


def shared_directory(memory: Path = Path("/dev/shm")) -> Path:
    """Return the directory for this user's copies in a file system that is memory."""
    return memory / f"sun-modules-{os.getuid()}"


class HostCopies:
    """The copies that this process holds.

    Args:
        root: directory of all copies; made, for this user alone, where it is missing.

    Raises:
        CheckpointError: the directory cannot be made, or belongs to another user.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: dict[str, int] = {}
        try:
            root.mkdir(mode=0o700, exist_ok=True)
            found = root.lstat()
        except OSError as e:
            raise CheckpointError(f"{root}: cannot hold modules ({e.strerror or e})") from e
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise CheckpointError(f"{root}: is not a directory of this user alone; remove it")
        remove_unused(root)

    def path(self, revision: str) -> Path:
        """Return the directory of a copy."""
        return self._root / revision

    def hold(self, revision: str, source: Path) -> None:
        """Copy a module unless the machine has a copy, and keep the copy until `release`. Blocks while it copies.

        Args:
            revision: revision of its weights.
            source: directory of the module.

        Raises:
            CheckpointError: the module cannot be read, has other weights, or does not fit into the shared memory.
        """
        assert revision not in self._locks, "held once"
        try:
            self._hold(revision, source)
        except OSError as e:
            raise CheckpointError(f"{source}: cannot be copied to {self._root} ({e.strerror or e})") from e

    def _hold(self, revision: str, source: Path) -> None:
        while True:
            lock = os.open(self._root / (revision + _LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                if self._is_copied(revision, lock) or self._copy_alone(revision, source, lock):
                    self._locks[revision] = lock
                    return
            finally:
                if self._locks.get(revision) != lock:
                    os.close(lock)

    def release(self, revision: str) -> None:
        """Give a copy up, and remove it if no other process uses it."""
        lock = self._locks.pop(revision)
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(self._root, revision)
        os.close(lock)

    def close(self) -> None:
        """Give all copies up."""
        for revision in tuple(self._locks):
            self.release(revision)

    def _is_copied(self, revision: str, lock: int) -> bool:
        """Return whether the machine has a copy, which then stays while the lock is open."""
        fcntl.flock(lock, fcntl.LOCK_SH)
        return _is_current(self._root / (revision + _LOCK), lock) and self.path(revision).is_dir()

    def _copy_alone(self, revision: str, source: Path, lock: int) -> bool:
        """Copy a module while no other process does. Return False if another one may have changed its copies since."""
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current(self._root / (revision + _LOCK), lock):
            return False
        try:
            if not self.path(revision).is_dir():
                self._copy(revision, source)
        except BaseException:
            _remove(self._root, revision)
            raise
        # not atomic: another process may remove the copy between the two locks
        return self._is_copied(revision, lock)

    def _copy(self, revision: str, source: Path) -> None:
        files = safetensors_of(source)
        size = sum(file.stat().st_size for file in files)
        free = shutil.disk_usage(self._root).free
        if size > free:
            raise CheckpointError(
                f"{source}: has {size:,} bytes, and {self._root} has room for {free:,}; enlarge this file system (in a "
                "container: `--shm-size`), or lower `host_memory_gb` of the pool's `modules`"
            )
        target = Path(tempfile.mkdtemp(prefix=f"{revision}.", dir=self._root))
        try:
            for file in files:
                shutil.copyfile(file, target / file.name)
            if (source / INDEX).exists():
                shutil.copyfile(source / INDEX, target / INDEX)
            found = weights_revision(target)
            if found != revision:
                raise CheckpointError(
                    f"{source}: has weights {found}, and {revision} are expected; its files were changed after the "
                    "task was added: update the task"
                )
            target.rename(self.path(revision))
        finally:
            shutil.rmtree(target, ignore_errors=True)


def remove_unused(root: Path) -> None:
    """Remove the copies that no process uses: those of workers that were killed."""
    for path in root.glob("*" + _LOCK):
        with _try_lock(path) as lock:
            if lock is not None:
                _remove(root, path.name.removesuffix(_LOCK))


def _remove(root: Path, revision: str) -> None:
    """Remove a copy, and what is left of copies that were not ended. This process holds the lock alone."""
    leaving = root / (revision + _LEAVING)
    shutil.rmtree(leaving, ignore_errors=True)
    # what is left when this process is killed must not pass for a copy
    with suppress(FileNotFoundError):
        (root / revision).rename(leaving)
    for half in root.glob(f"{revision}.*"):
        if half.suffix != _LOCK:
            shutil.rmtree(half, ignore_errors=True)
    (root / (revision + _LOCK)).unlink(missing_ok=True)


def _is_current(path: Path, lock: int) -> bool:
    """Return whether a lock is on the file that others lock: whoever removes a copy removes its lock file too."""
    try:
        return os.fstat(lock).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


@contextmanager
def _try_lock(path: Path) -> Iterator[int | None]:
    """Lock a file exclusively; yields None where another process holds a lock on it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield None
    else:
        # another process may have removed the file, and a third one made it again, since it was opened
        yield lock if _is_current(path, lock) else None
    finally:
        os.close(lock)
