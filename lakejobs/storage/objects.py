"""A store in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

Whole files only: a file is written to a local disk, then published by one PUT; it is read by one GET, so that its
content is that of one version. Versions are etags. A listing of any depth is one LIST of up to 1,000 objects a request.
Nothing unfinished is ever visible, and there are no temporary files to sweep. (A bucket's lifecycle rule for
incomplete multipart uploads tidies up after uploads that were cut off.)

Locks are leases. A lock is an object that names its holder by a nonce and counts its holders: the epoch. The holder
renews it; whoever waits for it takes it over once it has not changed for a whole lease, by the waiter's own clock. No
two hosts' clocks are ever compared. Each step is a conditional PUT, so of several contenders one succeeds.

A holder that was stopped for longer than its lease has lost the lock without knowing. So while a store holds leases,

- publishing looks up what is there first, makes sure after that that it still holds the leases, and replaces only what
  it saw. What a later holder has published is never overwritten; the late one fails and says that it lost the lock;
- removing does the same: only what was seen is removed.

What this leaves open, because no request can be made to depend on another object:

- a process that is stopped between that check and its request can still replace or remove a file that no later holder
  has touched, and create one that a later holder has removed. It then fails too, and every such file records what it
  was made from, so the next run finds it stale or missing, and rebuilds it. (Bronze is never replaced or removed.) In
  Google's and Microsoft's stores, where objects are removed unconditionally here, this includes removing a file that a
  later holder has made anew;
- an etag is a hash of the content, so a file that is replaced and then replaced again by the very same bytes passes for
  untouched. Parquet files hold the time they were made at, so this concerns caches only;
- files larger than `LARGEST_PUT` are uploaded in parts, which cannot be made conditional: they are published if the
  leases are held when the upload begins and when it ends.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import html
import http
import io
import json
import os
import re
import socket
import stat
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from lakejobs.messages import LakeError, log
from lakejobs.storage import ANY, TEMPORARY, ChangedError, File, Listing, MissingError
from lakejobs.storage.local import LocalStore, explained

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore as Client

Kind = TypeVar("Kind")

SCHEMES = ("s3", "gs", "az")
LARGEST_PUT = 256 << 20
"""Bytes. A conditional PUT needs the content in memory, and S3 takes 5 GB at most."""
IN_MEMORY = 16 << 20
"""Bytes of a file that is being read; larger ones go to the local disk."""
TRANSFERS = 8
"""Downloads at once."""
NONCE = "lakejobs-nonce"
"""The entry in an object's metadata that tells whose PUT made it."""
PATIENCE = 60.0
"""Seconds to go on trying a request that the store does not answer, or not with success."""
REFUSALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
"""Codes of S3's answers to those who may not ask."""
NO_ANSWER = "no answer from "
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
PAUSE = 0.5
"""The longest pause, in seconds, between two looks at a lock that another run holds."""


class UnansweredError(LakeError):
    """A request was not answered, however often it was repeated."""


class ObjectStore:
    """Objects below a URL: `s3://bucket/prefix`, `gs://…` or `az://…`.

    The environment says where the store is and who asks, by the variables that its vendor's own tools read:
    AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …; GOOGLE_…; AZURE_….
    """

    token_seconds = 60.0
    dates_files = True

    def __init__(self, root: str, lease: float = 60) -> None:
        """`lease`: seconds after which the lock of a dead process is taken over."""
        self.root, self.lease = root, lease
        # A lease that cannot be renewed in time is lost.
        self._lock_patience = min(PATIENCE, lease / 2)
        self._clients = {patience: _client(root, patience) for patience in (PATIENCE, self._lock_patience, 0)}
        self._is_silent = False
        """A request went unanswered for long. Until one is answered, each is made only once: a run that is cut off ends
        soon, instead of trying every task for long."""
        self._leases: list[ObjectLease] = []
        self._others: dict[str, list[str]] = {}
        """What the last listing of a directory has shown besides files, for whoever asks for that next."""
        self._disk = _LocalDisk(root)

    def location(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def url(self, path: str) -> str:
        return self.location(path)

    def exists(self) -> bool:
        return True  # a prefix needs no making; that a bucket is missing, every request says

    def _client(self, patience: float | None = None) -> Client:
        """The client that tries for `patience` seconds, by default PATIENCE."""
        return self._clients[0 if self._is_silent else patience or PATIENCE]()

    # -------------------------------------------------------------------------------------------- looking

    def files(self, directory: str) -> list[File]:
        listed = self._list_one(directory)
        self._others[directory] = _names(listed)
        found = [_file(one, directory) for one in listed["objects"]]
        # Some stores show an empty directory as an object of its own.
        return sorted(file for file in found if file.path not in ("", directory))

    def others(self, directory: str) -> list[str]:
        found = self._others.pop(directory, None)
        return _names(self._list_one(directory)) if found is None else found

    def listings(self, directory: str, depth: int, wanted: Callable[[str], bool]) -> dict[str, Listing]:
        found: dict[str, list[File]] = {}
        for below, file in self._below(directory, depth):
            if wanted(file.path):
                found.setdefault(below, []).append(file)
        return {below: ObjectListing(files) for below, files in found.items()}

    def named(self, directory: str, depth: int, name: str) -> dict[str, File]:
        return {below: file for below, file in self._below(directory, depth) if file.path == name}

    def _below(self, directory: str, depth: int) -> Iterator[tuple[str, File]]:
        """The files `depth` levels below a directory, each with its directory, relative to that one."""
        if depth == 0:
            yield from (("", file) for file in self.files(directory))
            return
        import obstore

        with self._explained("list", directory):
            for found in _twice(lambda: obstore.list(self._client(), directory or None).collect()):
                below, _, _ = _relative(found["path"], directory).rpartition("/")
                if below.count("/") == depth - 1 and below:
                    yield below, _file(found, f"{directory}/{below}" if directory else below)

    def _list_one(self, directory: str) -> Any:
        """The objects and the common prefixes one level below a directory."""
        import obstore

        with self._explained("list", directory):
            return _twice(lambda: obstore.list_with_delimiter(self._client(), directory or None))

    def stat(self, path: str) -> File | None:
        found = self._head(path)
        return _file(found[0], path.rpartition("/")[0])._replace(path=path) if found else None

    def _head(self, path: str) -> tuple[ObjectMeta, str] | None:
        """What is known about an object, and its nonce."""
        import obstore

        try:
            with self._explained("read", path):
                found = obstore.get(self._client(), path, options={"head": True})
                return found.meta, str(found.attributes.get(NONCE, ""))
        except MissingError:
            return None

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as handle:
            found = self._download(path, cast("BinaryIO", handle))
            assert found
            handle.seek(0)
            handle.version = _version(found)  # type: ignore[attr-defined]
            yield cast("BinaryIO", handle)

    def version(self, handle: BinaryIO) -> str:
        return str(handle.version)  # type: ignore[attr-defined]

    def _download(
        self, path: str, handle: BinaryIO, known: str | None = None, patience: float | None = None
    ) -> ObjectMeta | None:
        """Download a file and return what is known about it; None if it is still the `known` version."""
        import obstore
        from obstore.exceptions import NotModifiedError

        def get() -> ObjectMeta | None:
            handle.seek(0)
            handle.truncate()
            try:
                found = obstore.get(self._client(patience), path, options={"if_none_match": known} if known else {})
            except NotModifiedError:
                return None
            for chunk in found.stream(min_chunk_size=1 << 20):
                handle.write(chunk)
            return found.meta

        with self._explained("read", path, patience):
            return _twice(get)

    def read_part(self, path: str, start: int, size: int) -> bytes:
        import obstore

        with self._explained("read", path):
            return bytes(_twice(lambda: obstore.get_range(self._client(), path, start=start, length=size)))

    def on_disk(self, paths: Sequence[str]) -> list[str]:
        if not paths:
            return []
        with ThreadPoolExecutor(TRANSFERS) as pool:
            return list(pool.map(self._copy, paths))

    def _copy(self, path: str) -> str:
        """The path of a local copy of a file as it is now."""
        known = self._disk.copies.get(path)
        local = self._disk.new_copy()
        with explained(f"cannot write {local}"), open(local, "wb") as handle:
            found = self._download(path, handle, known[0] if known else None)
        if found is None:
            assert known
            os.unlink(local)
            return known[1]
        self._disk.copies[path] = _version(found), local
        if known:
            os.unlink(known[1])
        return local

    # -------------------------------------------------------------------------------------------- publishing

    @contextlib.contextmanager
    def publish(self, path: str, *, durable: bool = True, replaces: str | None = ANY) -> Iterator[str]:
        is_fenced = bool(self._leases) or replaces != ANY
        found = self._head(path) if is_fenced else None
        seen = found[0] if found else None
        if replaces != ANY and (_version(seen) if seen else None) != replaces:
            raise self._changed(path)
        with self._disk.temporary() as temporary:
            yield temporary
            self._still_held()
            try:
                self._put(path, temporary, seen, is_fenced)
            except ChangedError:
                self._still_held()  # otherwise says why
                raise
            self._still_held()

    def _put(self, path: str, local: str, seen: ObjectMeta | None, is_fenced: bool) -> None:
        """Upload a file; with `is_fenced`, only if the object is still what was `seen`."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        mode: Any = "overwrite"
        if is_fenced and os.path.getsize(local) <= LARGEST_PUT:
            mode = _update(seen) if seen else "create"
        nonce = uuid.uuid4().hex
        with self._explained("write", path):
            for is_last in (False, True):  # the client does not repeat uploads in parts
                try:
                    with open(local, "rb") as handle:
                        obstore.put(self._client(), path, handle, mode=mode, attributes={NONCE: nonce})
                    return
                except (BaseError, FileNotFoundError) as error:
                    # The answer may be lost although the object was written; the client then tries again, in vain.
                    if (found := self._head(path)) and found[1] == nonce:
                        return
                    if isinstance(error, AlreadyExistsError | PreconditionError):
                        raise self._changed(path) from error
                    if is_last:
                        raise

    def _changed(self, path: str) -> ChangedError:
        return ChangedError(f"{self.location(path)} was changed by another run; run again")

    def remove(self, path: str) -> None:
        if found := self._head(path):
            self._still_held()
            self._delete(path, found[0])
        self._still_held()

    def _delete(self, path: str, seen: ObjectMeta) -> None:
        """Delete an object if it is still what was `seen`. (In Google's and Microsoft's stores, in any case.)"""
        import obstore

        with contextlib.suppress(MissingError), self._explained("remove", path):
            if not self.root.startswith("s3://"):
                _twice(lambda: obstore.delete(self._client(), path))
                return
            # The library cannot delete conditionally, but it can sign requests.
            url = obstore.sign(cast("Any", self._client()), "DELETE", path, dt.timedelta(seconds=PATIENCE))
            request = urllib.request.Request(url, method="DELETE", headers={"If-Match": _version(seen)})  # noqa: S310
            for pause in (0,) if self._is_silent else (0.1, 0.5, 2, 8, 0):
                try:
                    with urllib.request.urlopen(request, timeout=PATIENCE / 2):  # noqa: S310
                        return
                except urllib.error.HTTPError as error:
                    if error.code == http.HTTPStatus.PRECONDITION_FAILED and self._head(path):
                        raise self._changed(path) from error
                    if error.code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.PRECONDITION_FAILED):
                        return
                    failed: Exception = error
                    if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                        break
                except OSError as error:
                    failed = error
                time.sleep(pause)
            what = f"cannot remove {self.location(path)}"
            if isinstance(failed, urllib.error.HTTPError):
                said = failed.read().decode(errors="replace")
                raise LakeError(f"{what}: {_reason(f'{failed.code} {failed.reason} {said}')}") from failed
            raise UnansweredError(f"{what}: {_no_answer(url)}") from failed

    def sweep(self, directory: str) -> None:
        """Nothing: no unfinished file is ever in the store."""

    # -------------------------------------------------------------------------------------------- locks

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float) -> Iterator[ObjectLease]:
        lease = ObjectLease(self, name)
        lease.acquire(timeout)
        self._leases.append(lease)
        try:
            with lease.renewed():
                yield lease
        finally:
            self._leases.remove(lease)
            lease.release()

    def token(self, name: str) -> str:
        found = self.read_lock(name)
        return str(found[0]["token"]) if found else ""

    def _still_held(self) -> None:
        """Raises LakeError if a lease that this store holds was lost."""
        for lease in list(self._leases):
            lease.check()

    def read_lock(self, name: str) -> tuple[dict[str, Any], ObjectMeta] | None:
        """What a lock says, and its version."""
        content = io.BytesIO()
        try:
            found = self._download(f"_lock_{name}", content, patience=self._lock_patience)
        except MissingError:
            return None
        assert found
        return {**NOBODY, **_json(content.getvalue())}, found

    def write_lock(self, name: str, content: Mapping[str, Any], seen: ObjectMeta | None) -> ObjectMeta | None:
        """Replace what a lock says if it is still what was `seen`; returns its new version, or None if it is not."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._explained("lock", f"_lock_{name}", self._lock_patience):
            body = json.dumps(content).encode()
            mode = cast("Any", _update(seen) if seen else "create")
            try:
                put = obstore.put(self._client(self._lock_patience), f"_lock_{name}", body, mode=mode)
                return cast("ObjectMeta", put)
            except Exception as error:
                if (found := self.read_lock(name)) and found[0] == content:
                    return found[1]  # the answer was lost, not the request
                if isinstance(error, AlreadyExistsError | PreconditionError | FileNotFoundError):
                    return None
                raise

    # -------------------------------------------------------------------------------------------- scratch

    def scratch(self, name: str) -> contextlib.AbstractContextManager[str]:
        return self._disk.scratch(name)

    @contextlib.contextmanager
    def shared(self, name: str) -> Iterator[str]:
        everyones = f"{TEMPORARY}shared_{name}"
        self._clear(everyones)
        try:
            yield f"{everyones}/{uuid.uuid4().hex}"
        finally:
            # What cannot be removed is left to a later run.
            with contextlib.suppress(LakeError):
                self._clear(everyones)

    def take(self, path: str, target: str) -> None:
        with explained(f"cannot write {target}"), open(target, "wb") as handle:
            self._download(path, handle)

    def _clear(self, directory: str) -> None:
        """Remove whatever is below a directory."""
        import obstore

        with self._explained("remove", directory):
            found = _twice(lambda: obstore.list(self._client(), directory).collect())
            if found:
                _twice(lambda: obstore.delete(self._client(), [one["path"] for one in found]))

    @contextlib.contextmanager
    def _explained(self, what: str, path: str, patience: float | None = None) -> Iterator[None]:
        try:
            with explained_request(f"cannot {what} {self.location(path)}", self.location(path)):
                yield
        except UnansweredError:
            # The renewals of a short lease are given up too soon to tell.
            self._is_silent |= (patience or PATIENCE) >= PATIENCE / 2
            raise
        except LakeError:
            self._is_silent = False
            raise
        self._is_silent = False


NOBODY: Mapping[str, Any] = {"epoch": 0, "nonce": "", "renewals": 0, "holder": "", "token": ""}
"""A lock that nobody holds. `nonce`: whose it is; `renewals` makes each renewal another version."""


class ObjectLease:
    """A lock in an object store, held for as long as it is renewed."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store, self._name = store, name
        self._content: dict[str, Any] = dict(NOBODY)
        self._seen: ObjectMeta | None = None
        self._until = 0.0
        """Until when, by this process's clock, nobody else can have taken it over."""
        self._is_lost = False
        self._changing = threading.Lock()

    @property
    def token(self) -> str:
        return str(self._content["token"])

    def renew_token(self) -> str:
        # If it cannot be stored, runs in progress do not notice that this one has published.
        with contextlib.suppress(LakeError):
            self._write(token=uuid.uuid4().hex)
        return self.token

    def acquire(self, timeout: float) -> None:
        """Wait for the lock. A lock that nobody has renewed for a whole lease, as seen from here, is taken over."""
        begin, pause, watched, since = _clock(), 0.02, "", 0.0
        while True:
            now = _clock()
            found = self._store.read_lock(self._name)
            content, seen = found or (dict(NOBODY), None)
            version = _version(seen) if seen else ""
            if version != watched:
                watched, since = version, _clock()  # the answer may have taken long
            # The holder counts from before it asked, and the waiter from after it saw; the rest is for clocks that
            # run fast.
            if not content["nonce"] or now - since > 1.25 * self._store.lease:
                mine = {
                    "epoch": content["epoch"] + 1,
                    "nonce": uuid.uuid4().hex,
                    "renewals": 0,
                    "holder": f"{socket.gethostname()} {os.getpid()}",
                    "token": content["token"],
                }
                now = _clock()
                if (written := self._store.write_lock(self._name, mine, seen)) is not None:
                    if content["nonce"]:
                        log.warning("%s: took over the lock of %s, which is dead", self._name, content["holder"])
                    self._content, self._seen, self._until = mine, written, now + self._store.lease
                    return
                continue
            if now - begin >= timeout:
                raise LakeError(
                    f"{self._name}: another run has held the lock for {timeout:,} seconds ([lake] lock_timeout); it "
                    f"runs on {content['holder']}; check what it is doing, then run again"
                )
            if pause == 0.02:
                log.info("%s: waiting for another run that is writing to it", self._name)
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease in the background."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self._store.lease / 4):
                # Whoever publishes next says so.
                with contextlib.suppress(LakeError):
                    self._write()

        thread = threading.Thread(target=renew, name=f"lease of {self._name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def check(self) -> None:
        """Raises LakeError if the lock may be another's by now."""
        if self._is_lost or _clock() >= self._until:
            self._write()

    def release(self) -> None:
        # If it cannot be released, it is taken over after the lease.
        with contextlib.suppress(LakeError):
            self._write(nonce="")

    def _write(self, **changes: Any) -> None:
        """Write the lock, which renews it, if it is still ours. Raises LakeError if it is not."""
        with self._changing:
            while not self._is_lost:
                now = _clock()
                content = {**self._content, "renewals": self._content["renewals"] + 1, **changes}
                written = self._store.write_lock(self._name, content, self._seen)
                if written is not None:
                    self._content, self._seen, self._until = content, written, now + self._store.lease
                    return
                # An earlier renewal may have taken effect after it was given up.
                found = self._store.read_lock(self._name)
                self._is_lost = found is None or found[0]["nonce"] != self._content["nonce"]
                if found:
                    self._seen = found[1]
            raise LakeError(
                f"{self._name}: lost the lock, because it was not renewed for more than {self._store.lease:g} seconds "
                "([lake] lock_lease) and another run took it over; run again"
            )


class ObjectListing:
    """Files of one directory."""

    def __init__(self, files: list[File]) -> None:
        self._files = sorted(files)

    @property
    def digest(self) -> str:
        rows = "\0".join(f"{file.path}\0{file.version}" for file in self._files)
        return hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def files(self) -> list[File]:
        return self._files


class _LocalDisk:
    """The directory on a local disk, below TMPDIR, where files of one store are written, copied and spilled to."""

    def __init__(self, root: str) -> None:
        name = f"lakejobs-{os.getuid()}-{hashlib.sha256(root.encode()).hexdigest()[:12]}"
        self._store = LocalStore(os.path.join(tempfile.gettempdir(), name))
        self._mine: str | None = None
        self._opening = threading.Lock()
        self.copies: dict[str, tuple[str, str]] = {}
        """Version and path of the local copies, by path in the store."""

    def directory(self) -> str:
        """A directory of this object's own; it is removed with it, and if the process dies, by a later run."""
        with self._opening:
            if self._mine is None:
                stack = contextlib.ExitStack()
                self._mine = stack.enter_context(self.scratch("files"))
                weakref.finalize(self, stack.close)
            return self._mine

    def new_copy(self) -> str:
        return f"{self.directory()}/{uuid.uuid4().hex}"

    @contextlib.contextmanager
    def temporary(self) -> Iterator[str]:
        """The path for a file to be published."""
        path = self.new_copy()
        try:
            with explained(f"cannot write {path}"):
                yield path
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def scratch(self, name: str) -> contextlib.AbstractContextManager[str]:
        root = self._store.root
        with explained(f"cannot create {root}"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(root, 0o700)
            found = os.lstat(root)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise LakeError(f"{root} belongs to somebody else; remove it, or set TMPDIR to another directory")
        return self._store.scratch(name)


# ------------------------------------------------------------------------------------------------ the client

_process = 0
"""The process that uses the client: it has threads, which a forked child lacks, so that requests would hang there."""


def _client(root: str, patience: float) -> Callable[[], Client]:
    """A function that returns the client for a URL. `patience`: see PATIENCE; with 0, it tries once."""
    scheme, _, rest = root.partition("://")
    if scheme not in SCHEMES or not rest.partition("/")[0]:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise LakeError(f"{root} is not the URL of an object store; expected a bucket, and a prefix in it: {known}…")
    for name in ENDPOINTS:
        if not os.environ.get(name, "http://").startswith(("http://", "https://")):
            raise LakeError(f"{name}={os.environ[name]}: expected a URL such as https://s3.example.com")
    try:
        from obstore.store import from_url
    except ImportError:
        raise LakeError(
            f"{root}: object stores need the package obstore; install it with pip install 'lakejobs[objects]'"
        ) from None
    with explained_request(f"cannot open {root}", root):
        client = from_url(
            root,
            retry_config={"max_retries": 8 if patience else 0, "retry_timeout": dt.timedelta(seconds=patience)},
            client_options={
                "allow_http": True,  # if the endpoint says so
                "connect_timeout": dt.timedelta(seconds=min(5, patience or PATIENCE)),
                "read_timeout": dt.timedelta(seconds=(patience or PATIENCE) / 2),
                "timeout": dt.timedelta(hours=1),  # large files take long
            },
        )

    def use() -> Client:
        global _process
        _process = _process or os.getpid()
        if _process != os.getpid():
            raise LakeError(
                f"{root}: several worker processes cannot share an object store's client; run with --workers 1 (the "
                "engine uses all cores anyway)"
            )
        return client

    return use


@contextlib.contextmanager
def explained_request(what: str, location: str) -> Iterator[None]:
    """Turn an error of a request into a message that says what failed, and why."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            raise MissingError(f"{location} is missing") from error
        reason = _reason(str(error))
        raise (UnansweredError if reason.startswith(NO_ANSWER) else LakeError)(f"{what}: {reason}") from error


def _twice(ask: Callable[[], Kind]) -> Kind:
    """Ask once more if the body of the answer was cut off: the client repeats other requests only."""
    from obstore.exceptions import GenericError

    try:
        return ask()
    except GenericError as error:
        if "body" not in str(error).partition("\n")[0]:
            raise
        return ask()


def _reason(said: str) -> str:
    """Why a request failed, and what to do, in a line."""
    if "169.254.169.254" in said or "metadata.google" in said:
        return (
            "no credentials were found; set them in the environment, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    answer = re.search(r"<Code>([^<]*)</Code>", said)
    code = answer[1] if answer else ""
    if code == "NoSuchBucket":
        return "the bucket does not exist; create it, or set another one with [lake] root and staging"
    if code == "RequestTimeTooSkewed":
        return f"the store refuses this host, because its clock is wrong ({code}); set it, for example by NTP"
    refused = code or next((status for status in ("401 Unauthorized", "403 Forbidden") if status in said), "")
    if refused in ("401 Unauthorized", "403 Forbidden") or code in REFUSALS:
        return f"permission denied ({refused}); check the credentials in the environment, and what they allow"
    line = said.partition("\n")[0]
    if "error sending request" in line and (server := re.search(r"\w+://[^/\s]+", line)):
        return _no_answer(server[0])
    message = re.search(r"<Message>([^<]*)</Message>", said)
    return f"{code}: {html.unescape(message[1])}" if message else line


def _no_answer(url: str) -> str:
    address = urllib.parse.urlsplit(url)
    return f"{NO_ANSWER}{address.scheme}://{address.netloc}; check AWS_ENDPOINT_URL and the network"


def _clock() -> float:
    """Seconds that pass while the machine sleeps too, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _update(seen: ObjectMeta) -> dict[str, str]:
    """The condition that an object is still the one seen."""
    return {name: str(seen[name]) for name in ("e_tag", "version") if seen.get(name)}


def _version(found: ObjectMeta) -> str:
    return str(found["e_tag"])


def _file(found: ObjectMeta, directory: str) -> File:
    """An object as a file, its path relative to its directory."""
    modified = found["last_modified"]
    nanoseconds = int(modified.timestamp()) * 10**9 + modified.microsecond * 1000
    return File(_relative(found["path"], directory), found["size"], _version(found), nanoseconds)


def _names(listed: Any) -> list[str]:
    """What a listing of one level shows besides files."""
    return sorted(path.rpartition("/")[2] for path in listed["common_prefixes"])


def _relative(path: str, directory: str) -> str:
    return path.removeprefix(f"{directory}/") if directory else path


def _json(text: bytes) -> dict[str, Any]:
    """The content of a lock; nobody's if it is damaged."""
    with contextlib.suppress(ValueError):
        content = json.loads(text)
        if isinstance(content, dict):
            return content
    return {}
