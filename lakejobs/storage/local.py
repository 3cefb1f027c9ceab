"""A store on a local disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, cast

from lakejobs.messages import LakeError, log
from lakejobs.storage import ANY, TEMPORARY, ChangedError, File, Listing, MissingError

COPIED_AT_ONCE = 1 << 30
IN_MEMORY = 32 << 20
"""Bytes of a temporary file that are not on the disk."""
VERSION = re.compile("([0-9]+)-(-?[0-9]+)-")
_serial = itertools.count()


class LocalStore:
    """Files below a directory. Versions consist of size, times and inode; locks are the kernel's."""

    token_seconds = 0.0
    dates_files = False

    def __init__(self, root: str) -> None:
        self.root = root

    def location(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def on_disk(self, paths: Sequence[str]) -> list[str]:
        return [self.location(path) for path in paths]

    def url(self, path: str) -> str:
        return f"file://{os.path.abspath(self.location(path))}"

    def exists(self) -> bool:
        with explained(f"cannot read {self.root}"):
            try:
                return stat.S_ISDIR(os.stat(self.root).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    # -------------------------------------------------------------------------------------------- looking

    def files(self, directory: str) -> list[File]:
        listings = self.listings(directory, 0, lambda name: True)
        return listings[""].files() if listings else []

    def listings(self, directory: str, depth: int, wanted: Callable[[str], bool]) -> dict[str, Listing]:
        found: dict[str, Listing] = {}
        for path, below in self._below(directory, depth):
            # Every run comes here for every file, so this does nothing per file that can wait.
            rows = []
            for entry in _entries(path):
                if wanted(entry.name):
                    try:
                        known = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # deleted since the listing began
                        continue
                    except OSError:
                        with explained(f"cannot read {entry.path}"):
                            raise
                    if stat.S_ISREG(known.st_mode):
                        rows.append(f"{entry.name}\0{_version(known)}")
            if rows:
                found[below] = LocalListing(rows)
        return found

    def named(self, directory: str, depth: int, name: str) -> dict[str, File]:
        found = {}
        for path, below in self._below(directory, depth):
            try:
                known = os.stat(f"{path}/{name}", follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                with explained(f"cannot read {path}/{name}"):
                    raise
            if stat.S_ISREG(known.st_mode):
                found[below] = _file(name, known)
        return found

    def _below(self, directory: str, depth: int) -> list[tuple[str, str]]:
        """The directories `depth` levels below one: their paths on disk, and relative to that one."""
        found = [(self.location(directory), "")]
        for _ in range(depth):
            found = [
                (entry.path, f"{below}/{entry.name}" if below else entry.name)
                for path, below in found
                for entry in _entries(path)
                if _is_directory(entry)
            ]
        return found

    def others(self, directory: str) -> list[str]:
        with (
            explained(f"cannot list {self.location(directory)}"),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self.location(directory)) as entries,
        ):
            return sorted(entry.name for entry in entries if not entry.is_file(follow_symlinks=False))
        return []

    def stat(self, path: str) -> File | None:
        with explained(f"cannot read {self.location(path)}"):
            try:
                found = os.stat(self.location(path), follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _file(path, found) if stat.S_ISREG(found.st_mode) else None

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        with reading(self.location(path)) as handle:
            yield handle

    def version(self, handle: BinaryIO) -> str:
        return _file("", os.fstat(handle.fileno())).version

    def read_part(self, path: str, start: int, size: int) -> bytes:
        with self.reading(path) as handle:
            handle.seek(start)
            return handle.read(size)

    # -------------------------------------------------------------------------------------------- publishing

    @contextlib.contextmanager
    def publish(self, path: str, *, durable: bool = True, replaces: str | None = ANY) -> Iterator[str]:
        target = self.location(path)
        directory = os.path.dirname(target)
        temporary = f"{directory}/{TEMPORARY}{os.getpid()}-{next(_serial)}"
        with explained(f"cannot write {target}"):
            make_directory(directory)
            try:
                yield temporary
                if durable:
                    _sync(temporary)
                if replaces == ANY:
                    os.replace(temporary, target)
                else:
                    self._replace(temporary, path, replaces)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            if durable:
                _sync(directory)

    def _replace(self, temporary: str, path: str, version: str | None) -> None:
        """Rename if the target still has this version; of several processes that try, one succeeds."""
        target = self.location(path)
        directory = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            found = self.stat(path)
            if (found.version if found else None) != version:
                raise ChangedError(f"{target} was changed by another run; run again")
            os.replace(temporary, target)
        finally:
            os.close(directory)

    def remove(self, path: str) -> None:
        target = self.location(path)
        with explained(f"cannot remove {target}"), contextlib.suppress(FileNotFoundError):
            os.unlink(target)
            _sync(os.path.dirname(target))

    def sweep(self, directory: str) -> None:
        for leftover in self.files(directory):
            if leftover.name.startswith(TEMPORARY):
                self.remove(f"{directory}/{leftover.name}" if directory else leftover.name)

    # -------------------------------------------------------------------------------------------- locks

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float) -> Iterator[LocalLease]:
        path = self._lock(name)
        with explained(f"cannot lock {path}"):
            make_directory(self.root)
            handle = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed below, which releases the lock
        try:
            with explained(f"cannot lock {path}"):
                _wait_for_lock(handle, name, timeout)
                lease = LocalLease(handle)
            yield lease
        finally:
            with explained(f"cannot unlock {path}"):
                handle.close()

    def token(self, name: str) -> str:
        try:
            with open(self._lock(name), "rb") as handle:
                return handle.read().decode("ascii", "replace")
        except OSError:
            return ""

    def _lock(self, name: str) -> str:
        return self.location(f"_lock_{name}")

    # -------------------------------------------------------------------------------------------- scratch

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[str]:
        prefix = f"{TEMPORARY}spill_"
        with explained(f"cannot list {self.root}"), os.scandir(self.root) as entries:
            leftovers = [entry.path for entry in entries if entry.name.startswith(prefix)]
        for leftover in leftovers:
            with _holding(leftover) as is_dead:
                if is_dead:
                    _remove_tree(leftover)
        while True:
            path = self.location(f"{prefix}{name}_{os.getpid()}-{next(_serial)}")
            with explained(f"cannot create {path}"):
                os.mkdir(path)
            with _holding(path) as is_held:
                # A run of another domain may have removed it before it was locked, as left over from a dead run.
                if not is_held or not os.path.isdir(path):
                    continue
                try:
                    yield path
                finally:
                    _remove_tree(path)
                return

    @contextlib.contextmanager
    def shared(self, name: str) -> Iterator[str]:
        with self.scratch(name) as directory:
            yield os.path.relpath(directory, self.root)

    def take(self, path: str, target: str) -> None:
        source = self.location(path)
        with explained(f"cannot move {source} to {target}"):
            shutil.move(source, target)


class LocalLease:
    """A lock on a file, whose content is the token."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        handle.seek(0)
        self.token = handle.read().decode("ascii", "replace")

    def renew_token(self) -> str:
        token = f"{os.getpid()} {os.urandom(8).hex()}"
        # On a full disk the token is not renewed, and runs in progress do not notice that this one has published.
        with contextlib.suppress(OSError):
            self._handle.truncate(0)
            self._handle.write(token.encode())
        self.token = token
        return token


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """What is in a directory; nothing if it does not exist."""
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError:
        with explained(f"cannot list {directory}"):
            raise


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # of a link, what it leads to may have to be looked at
        with explained(f"cannot read {entry.path}"):
            raise


class LocalListing:
    """Files of one directory as text, which costs a fraction of `File`s."""

    def __init__(self, rows: list[str]) -> None:
        """`rows`: name and version of each file, with a zero between them."""
        self._rows = sorted(rows)

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self._rows).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def files(self) -> list[File]:
        found = []
        for row in self._rows:
            name, _, version = row.partition("\0")
            size, modified = VERSION.match(version).groups()  # type: ignore[union-attr]
            found.append(File(name, int(size), version, int(modified)))
        return found


def _version(known: os.stat_result) -> str:
    return f"{known.st_size}-{known.st_mtime_ns}-{known.st_ctime_ns}-{known.st_ino}"


def _file(path: str, known: os.stat_result) -> File:
    return File(path, known.st_size, _version(known), known.st_mtime_ns)


@contextlib.contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """Open a file on the local disk. Raises MissingError if it does not exist."""
    with explained(f"cannot read {path}"):
        try:
            handle = open(path, "rb")  # noqa: SIM115 - closed below
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"{path} is missing") from None
        with handle:
            yield handle


def copy(source: BinaryIO, path: str) -> None:
    """Copy an open file from its beginning to a local path, with the kernel if possible."""
    with open(path, "wb") as target:
        if sys.platform == "linux" and hasattr(source, "fileno"):
            try:
                os.lseek(source.fileno(), 0, os.SEEK_SET)
                while os.sendfile(target.fileno(), source.fileno(), None, COPIED_AT_ONCE):
                    pass
                return
            except OSError as error:
                if error.errno not in (
                    errno.EINVAL,
                    errno.ENOSYS,
                    errno.EOPNOTSUPP,
                ):  # not supported by this file system
                    raise
        source.seek(0)
        target.seek(0)
        shutil.copyfileobj(source, target)


def write(path: str, chunks: Iterable[bytes]) -> None:
    """Write a file to a local path."""
    with explained(f"cannot write {path}"), open(path, "wb") as target:
        for chunk in chunks:
            target.write(chunk)


@contextlib.contextmanager
def temporary(chunks: Iterable[bytes]) -> Iterator[BinaryIO]:
    """A file without a name, in memory unless it is large."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as spooled:
        for chunk in chunks:
            with explained("cannot write a temporary file"):
                spooled.write(chunk)
        spooled.seek(0)
        yield cast(BinaryIO, spooled)


def absolute(path: str) -> str:
    """A path for other processes, whose working directory is another."""
    return os.path.abspath(path)


def make_directory(directory: str) -> None:
    """Create a directory and its parents, syncing each to the disk before anything is put into it."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory) or "."
    make_directory(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    _sync(parent)


def _remove_tree(directory: str) -> None:
    """Remove a spill directory; what cannot be removed is left to a later run."""
    # rmtree raises some errors even if told to ignore them.
    with contextlib.suppress(OSError):
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _holding(directory: str) -> Iterator[bool]:
    """Lock a directory while this process lives; yields False if another process holds it or it is gone."""
    with explained(f"cannot lock {directory}"):
        try:
            descriptor, is_held = os.open(directory, os.O_RDONLY), True
        except FileNotFoundError:
            descriptor = -1
        if descriptor < 0:
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_held = False
        except OSError:
            os.close(descriptor)
            raise
    try:
        yield is_held
    finally:
        with explained(f"cannot unlock {directory}"):
            os.close(descriptor)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an operating system error into a message that says what failed, and why."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full; free some space and run again",
            errno.EDQUOT: "the disk quota is exceeded; free some space and run again",
            errno.EACCES: "permission denied; check who owns it",
            errno.EROFS: "the file system is read-only",
            errno.EIO: "the disk failed to read or write (input/output error)",
            errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
            errno.ENOTDIR: "expected a directory, but found a file",
        }.get(error.errno or 0, error.strerror or str(error))
        raise LakeError(f"{what}: {advice}") from error


def _wait_for_lock(handle: BinaryIO, name: str, timeout: float) -> None:
    """Acquire a lock, or give up after `timeout` seconds."""
    waited, pause = 0.0, 0.01
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if waited >= timeout:
                raise LakeError(
                    f"{name}: another run has held the lock for {timeout:,} seconds ([lake] lock_timeout); check what "
                    "it is doing, then run again"
                ) from None
            if not waited:
                log.info("%s: waiting for another run that is writing to it", name)
            # flock has no timeout, so it has to be polled.
            time.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 0.5)
