"""A store over another one: reads what is there, and keeps everything that is written to itself.

With it, whatever would change a lake can be tried without changing it, even where nothing may be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO

from lakejobs.storage import ANY, ChangedError, File, Lease, Listing, MissingError, Store
from lakejobs.storage.local import LocalStore

_replacing = threading.Lock()
"""Held while a file of a version is replaced. Only one process writes to a layer."""


class Overlay:
    """`base`, and what was written to `layer` or removed since, which only this object shows.

    Locks are those of the layer, so nobody else waits for them.
    """

    def __init__(self, base: Store, layer: LocalStore) -> None:
        self.root = base.root
        self.token_seconds = layer.token_seconds
        self.dates_files = base.dates_files
        self.base, self._layer = base, layer
        self._removed: set[str] = set()

    def _of(self, path: str) -> Store | None:
        """The store that a file is read from; None if it was removed."""
        if self._layer.stat(path):
            return self._layer
        return None if path in self._removed else self.base

    def location(self, path: str) -> str:
        return self.base.location(path)

    def on_disk(self, paths: Sequence[str]) -> list[str]:
        below = [path for path in paths if self._must(path) is self.base]
        places = dict(zip(below, self.base.on_disk(below), strict=True))
        return [places[path] if path in places else self._layer.location(path) for path in paths]

    def _must(self, path: str) -> Store:
        store = self._of(path)
        if store is None:
            raise MissingError(f"{self.location(path)} is missing")
        return store

    def url(self, path: str) -> str:
        return self.base.url(path)

    def exists(self) -> bool:
        return self.base.exists()

    def files(self, directory: str) -> list[File]:
        listings = self.listings(directory, 0, lambda name: True)
        return listings[""].files() if listings else []

    def listings(self, directory: str, depth: int, wanted: Callable[[str], bool]) -> dict[str, Listing]:
        found = self.base.listings(directory, depth, wanted)
        over = self._layer.listings(directory, depth, wanted)
        changed = {*over} | {below for path in self._removed if (below := _below(directory, path, depth)) is not None}
        for below in changed:
            files = {file.name: file for file in found[below].files()} if below in found else {}
            files = {name: file for name, file in files.items() if _join(directory, below, name) not in self._removed}
            files |= {file.name: file for file in over[below].files()} if below in over else {}
            if files:
                found[below] = Files([files[name] for name in sorted(files)])
            else:
                found.pop(below, None)
        return found

    def named(self, directory: str, depth: int, name: str) -> dict[str, File]:
        found = self.base.named(directory, depth, name)
        there = {below: file for below, file in found.items() if _join(directory, below, name) not in self._removed}
        return there | self._layer.named(directory, depth, name)

    def others(self, directory: str) -> list[str]:
        return self.base.others(directory)

    def stat(self, path: str) -> File | None:
        store = self._of(path)
        return store.stat(path) if store else None

    def reading(self, path: str) -> AbstractContextManager[BinaryIO]:
        return self._must(path).reading(path)

    def version(self, handle: BinaryIO) -> str:
        # Files of the layer are files on disk, which any local store can ask.
        return self._layer.version(handle) if _is_in(self._layer, handle) else self.base.version(handle)

    def read_part(self, path: str, start: int, size: int) -> bytes:
        return self._must(path).read_part(path, start, size)

    @contextlib.contextmanager
    def publish(self, path: str, *, durable: bool = True, replaces: str | None = ANY) -> Iterator[str]:
        with contextlib.ExitStack() as stack:
            if replaces != ANY:
                stack.enter_context(_replacing)
            temporary = stack.enter_context(self._layer.publish(path, durable=False))
            yield temporary
            there = self.stat(path)
            if replaces not in (ANY, there.version if there else None):
                raise ChangedError(f"{self.location(path)} was changed by another run; run again")

    def remove(self, path: str) -> None:
        self._layer.remove(path)
        self._removed.add(path)

    def lock(self, name: str, timeout: float) -> AbstractContextManager[Lease]:
        return self._layer.lock(name, timeout)

    def token(self, name: str) -> str:
        return self._layer.token(name)

    def sweep(self, directory: str) -> None:
        self._layer.sweep(directory)

    def scratch(self, name: str) -> AbstractContextManager[str]:
        return self._layer.scratch(name)

    def shared(self, name: str) -> AbstractContextManager[str]:
        return self._layer.shared(name)

    def take(self, path: str, target: str) -> None:
        self._layer.take(path, target)


class Files:
    """The listing of a directory of both stores."""

    def __init__(self, found: list[File]) -> None:
        self._found = found

    @property
    def digest(self) -> str:
        rows = "\n".join(f"{file.name}\0{file.version}" for file in self._found)
        return hashlib.sha256(rows.encode()).hexdigest()

    def files(self) -> list[File]:
        return self._found


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _below(directory: str, path: str, depth: int) -> str | None:
    """The directory of a file, relative to one `depth` levels above it; None if that is another one."""
    start, here = _join(directory, ""), path.rpartition("/")[0]
    if here != start and not here.startswith(f"{start}/" if start else ""):
        return None
    below = here[len(start) :].lstrip("/")
    return below if len(below.split("/")) * bool(below) == depth else None


def _is_in(store: LocalStore, handle: BinaryIO) -> bool:
    """Whether an open file is one of a local store."""
    return str(getattr(handle, "name", "")).startswith(f"{store.root}/")
