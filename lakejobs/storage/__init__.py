"""Storage: where the lake's files are. Only this package lists, reads, publishes, removes or locks.

`Store` is the protocol, `local` a store on a local disk. `layout` says where every file of a lake is, `deliveries` what
the names in bronze say, `footer` what is in the Parquet files, and `documents` reads and writes JSON and pages.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple, Protocol

from lakejobs.messages import LakeError

ANY = "any"
"""A version: whatever is there, or nothing."""
TEMPORARY = "_tmp-"
"""How names of files begin that are being written. Nobody else's business, and swept after their writer died."""


class File(NamedTuple):
    """A file as a listing shows it."""

    path: str
    """From the root of the store, or from the directory that was listed."""
    size: int
    version: str
    """Opaque: another one whenever the file was written to or replaced."""
    modified_ns: int
    """Nanoseconds since 1970, UTC."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class MissingError(LakeError):
    """The file that was to be read is not there."""


class ChangedError(LakeError):
    """Another version is there than the one that was to be replaced."""


class Lease(Protocol):
    """A lock that is held. Each holder that changed something leaves a token that later ones can see."""

    token: str
    """What the last holder left; '' where nobody has."""

    def renew_token(self) -> str:
        """Leave a new token. Where that fails, it is lost, and '' is returned."""


class Store(Protocol):
    """Files below one root, by paths that are relative to it, with `/`. Errors are LakeErrors that name the file."""

    root: str

    def location(self, path: str) -> str:
        """How people and engines call a file: its path on the disk, or its URL."""

    def url(self, path: str) -> str:
        """A URL that leads to a file."""

    def exists(self) -> bool:
        """Whether the root is there."""

    def files(self, directory: str, depth: int = 0) -> list[File]:
        """The files of a directory and of up to `depth` levels below it, by path; none where there is no directory.

        Links to files are no files. Paths are relative to the directory.
        """

    def others(self, directory: str) -> list[str]:
        """Names of what `files` leaves out of a directory itself: links, directories, devices."""

    def stat(self, path: str) -> File | None:
        """One file, or None where there is none."""

    def reading(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to read its bytes, from anywhere in it. MissingError where there is none."""

    def version(self, handle: BinaryIO) -> str:
        """The version of an open file, as it is now."""

    def publish(self, path: str, *, durable: bool = True, replaces: str | None = ANY) -> AbstractContextManager[str]:
        """Publish a file whole or not at all: yields a local path to write to, whose content becomes the file's.

        Durable: it outlives a loss of power from the moment this returns. After an error nothing has changed.
        `replaces`: publish only if this version is there, or, with None, if nothing is. ChangedError otherwise.
        """

    def remove(self, path: str) -> None:
        """Remove a file for good; it does not matter if it is gone already."""

    def lock(self, name: str, timeout: float) -> AbstractContextManager[Lease]:
        """Let one process at a time, of all hosts, do what has this name; wait for it for `timeout` seconds at most.

        The lock of a holder that died is free.
        """

    def token(self, name: str) -> str:
        """What the last holder of a lock left, without waiting for the lock."""

    def sweep(self, directory: str) -> None:
        """Remove what dead runs left half-written in a directory. Only under the lock of those who write there."""

    def scratch(self, name: str) -> AbstractContextManager[str]:
        """A directory on a local disk for what does not fit in memory. Those of dead runs are removed."""
