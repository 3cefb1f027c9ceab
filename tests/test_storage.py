"""The contract of `lakejobs.storage.Store`, which every store must keep."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import NamedTuple

import objectstores
import pytest
from torture import calls

from lakejobs import project
from lakejobs.messages import LakeError
from lakejobs.storage import ChangedError, MissingError, Store, documents
from lakejobs.storage.local import LocalStore, copy
from lakejobs.storage.objects import ObjectStore
from lakejobs.storage.overlay import Overlay

# A forked process cannot use an object store that its parent has used.
spawn = multiprocessing.get_context("spawn")


class Opener(NamedTuple):
    """Opens a store. What one that is opened twice has published, the other sees."""

    root: str
    below: str = ""
    """The root of another store that it lies over."""

    def __call__(self) -> Store:
        if self.below:
            return Overlay(LocalStore(self.below), LocalStore(self.root))
        return ObjectStore(self.root, lease=2) if "://" in self.root else LocalStore(self.root)


SERVERS = {"moto": objectstores.moto, "seaweedfs": objectstores.seaweedfs}


@pytest.fixture(params=["local", "overlay", *SERVERS])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    if request.param == "local":
        return Opener(str(tmp_path))
    if request.param == "overlay":
        for name in ("over", "below"):
            (tmp_path / name).mkdir()
        return Opener(str(tmp_path / "over"), str(tmp_path / "below"))
    for name, value in SERVERS[request.param]().environment.items():
        monkeypatch.setenv(name, value)
    return Opener(objectstores.new_root())


@pytest.fixture
def store(opened: Opener) -> Store:
    return opened()


def put(store: Store, path: str, content: bytes = b"x", **how: str | None) -> None:
    with store.publish(path, **how) as temporary, open(temporary, "wb") as handle:  # type: ignore[arg-type]
        handle.write(content)


def get(store: Store, path: str) -> bytes:
    with store.reading(path) as handle:
        return handle.read()


def test_what_is_published_can_be_read_from_anywhere_in_it(store, opened):
    put(store, "a/b/c.bin", bytes(range(256)))
    with opened().reading("a/b/c.bin") as handle:
        handle.seek(100)
        assert handle.read(3) == bytes([100, 101, 102])
        handle.seek(-2, os.SEEK_END)
        assert handle.read() == bytes([254, 255])


def test_a_part_of_a_file_can_be_read(store):
    put(store, "a/b", bytes(range(256)))
    assert store.read_part("a/b", 0, 2) == bytes([0, 1])
    assert store.read_part("a/b", 250, 6) == bytes(range(250, 256))
    with pytest.raises(MissingError, match="nothing"):
        store.read_part("nothing", 0, 1)


def test_a_listing_is_by_path(store):
    for path in ("b", "a-b", "a", "d/2"):
        put(store, path)
    assert [file.path for file in store.files("")] == ["a", "a-b", "b"]
    assert store.files("nowhere") == []


def test_files_are_listed_as_deep_as_was_asked(store):
    for path in ("1", "d/2", "d/1", "d/e/3", "d/e/_4", "d/f/3", "d/g/_5"):
        put(store, path)
    found = store.listings("d", 1, lambda name: not name.startswith("_"))
    assert {directory: [file.path for file in found[directory].files()] for directory in found} == {
        "e": ["3"],
        "f": ["3"],
    }
    assert found["e"].files() == store.files("d/e")[:1]
    assert store.listings("nowhere", 1, lambda name: True) == {}
    assert store.named("d", 1, "3") == {"e": found["e"].files()[0], "f": found["f"].files()[0]}
    assert store.named("d", 0, "2") == {"": store.stat("d/2")._replace(path="2")}
    assert store.named("d", 0, "e") == {}, "a directory is no file"
    assert store.named("nowhere", 1, "3") == {}


def test_the_digest_of_a_listing_changes_with_every_file_in_it(store):
    def digest(name: str = "") -> str:
        return store.listings("d", 0, lambda found: found != name)[""].digest

    put(store, "d/1")
    put(store, "d/2")
    seen = [digest()]
    assert digest() == seen[0]
    put(store, "d/2", b"other")
    seen.append(digest())
    put(store, "d/3")
    assert digest("3") == seen[1]
    seen.append(digest())
    store.remove("d/1")
    seen.append(digest())
    assert len(set(seen)) == 4


def test_a_file_is_the_same_in_a_listing_and_by_itself(store):
    put(store, "d/1", b"four")
    (listed,), asked = store.files("d"), store.stat("d/1")
    assert asked is not None
    assert (listed.name, listed.size, listed.version, listed.modified_ns) == (
        asked.name,
        4,
        asked.version,
        asked.modified_ns,
    )
    assert abs(listed.modified_ns / 1e9 - time.time()) < 3600
    assert store.stat("d/2") is None
    assert store.stat("d") is None, "a directory is no file"
    assert store.stat("d/1/2") is None


def test_what_is_missing_is_told_from_what_cannot_be_read(store):
    for path in ("nothing", "nowhere/nothing"):
        with pytest.raises(MissingError, match="nothing"), store.reading(path):
            pass
    assert issubclass(MissingError, LakeError)


@pytest.mark.parametrize("content", [b"other", b"same!"])
def test_a_version_changes_with_every_publication_even_of_the_same_content(store, content):
    put(store, "a", b"same!")
    first = store.stat("a")
    assert first == store.stat("a")
    put(store, "a", content)
    second = store.stat("a")
    assert first is not None and second is not None
    assert second.version != first.version or content == b"same!"
    assert get(store, "a") == content


def test_a_failed_publication_changes_nothing_and_leaves_nothing(store):
    put(store, "d/a", b"before")
    known = store.stat("d/a")
    with pytest.raises(ZeroDivisionError), store.publish("d/a") as temporary:
        Path(temporary).write_bytes(b"half")
        raise ZeroDivisionError
    assert get(store, "d/a") == b"before"
    assert store.stat("d/a") == known
    assert len(store.files("d")) == 1


def test_publishing_can_depend_on_what_is_there(store):
    put(store, "a", b"1", replaces=None)
    with pytest.raises(ChangedError, match="a was changed by another run"):
        put(store, "a", b"2", replaces=None)
    known = store.stat("a")
    put(store, "a", b"3", replaces=known.version)
    with pytest.raises(ChangedError):
        put(store, "a", b"4", replaces=known.version)
    store.remove("a")
    with pytest.raises(ChangedError):
        put(store, "a", b"5", replaces=known.version)
    assert store.stat("a") is None
    assert store.files("") == [], "nothing half-written is left"


def test_of_many_that_replace_the_same_version_one_succeeds(store, opened):
    put(store, "a", b"0")
    known = store.stat("a").version
    begin, done = threading.Barrier(8), []

    def replace(number: int) -> None:
        own = opened()
        begin.wait()
        try:
            put(own, "a", str(number).encode(), replaces=known)
        except ChangedError:
            return
        done.append(number)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [get(store, "a")] == [str(number).encode() for number in done]


def test_removing_what_is_gone_is_no_error(store):
    put(store, "d/a")
    store.remove("d/a")
    store.remove("d/a")
    assert store.files("d") == []


def test_an_open_file_has_the_version_of_its_content(store):
    put(store, "a", b"1")
    with store.reading("a") as handle:
        assert store.version(handle) == store.stat("a").version


def die_publishing(opened: Opener) -> None:
    with opened().publish("d/a") as temporary:
        Path(temporary).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_sweep_removes_what_a_writer_that_died_left(store, opened):
    process = spawn.Process(target=die_publishing, args=(opened,))
    process.start()
    process.join()
    assert store.stat("d/a") is None
    put(store, "d/b")
    store.sweep("d")
    assert [file.name for file in store.files("d")] == ["b"]
    store.sweep("nowhere")


def test_a_lock_lets_one_in_at_a_time_and_shows_what_the_last_one_left(store, opened):
    with store.lock("x", 10) as lease:
        assert lease.token == ""
        first = lease.renew_token()
        assert store.token("x") == first
        with pytest.raises(LakeError, match="x: another run has held the lock"), opened().lock("x", 0.1):
            pass
        with opened().lock("y", 0.1):
            pass
    with opened().lock("x", 0.1) as lease:
        assert lease.token == first
        assert lease.renew_token() != first
    assert store.token("nothing") == ""


def held(hold: Callable[[Opener, Queue[str]], None], opened: Opener) -> tuple[str, Callable[[], None]]:
    """What a process that holds something says about it, and a function that kills that process."""
    ready = spawn.Queue()
    process = spawn.Process(target=hold, args=(opened, ready))
    process.start()

    def kill() -> None:
        process.kill()
        process.join()

    return ready.get(timeout=60), kill


def hold_lock(opened: Opener, ready: Queue[str]) -> None:
    with opened().lock("x", 10) as lease:
        ready.put(lease.renew_token())
        signal.pause()


def test_the_lock_of_a_holder_that_died_is_free_and_keeps_its_token(store, opened):
    token, kill = held(hold_lock, opened)
    kill()
    with store.lock("x", 60) as lease:
        assert lease.token == token


def hold_scratch(opened: Opener, ready: Queue[str]) -> None:
    with opened().scratch("one") as directory:
        (Path(directory) / "spilled").write_bytes(b"x")
        ready.put(directory)
        signal.pause()


def test_scratch_is_a_local_directory_that_goes_with_its_holder(store, opened):
    theirs, kill = held(hold_scratch, opened)
    with store.scratch("two") as directory:
        assert Path(directory).is_dir() and Path(theirs).is_dir(), "one that is held is left alone"
    assert not Path(directory).exists()
    kill()
    with store.scratch("two"):
        assert not Path(theirs).exists()


def test_what_others_leave_in_a_shared_directory_can_be_taken(store, opened, tmp_path):
    with store.shared("one") as directory:
        put(opened(), f"{directory}/a", b"theirs")
        put(opened(), f"{directory}/b", b"late")
        store.take(f"{directory}/a", str(tmp_path / "taken"))
        assert (tmp_path / "taken").read_bytes() == b"theirs"
        with opened().shared("other"):
            assert get(store, f"{directory}/b") == b"late", "that of another name is left alone"
    assert store.files(directory) == []


def hold_shared(opened: Opener, ready: Queue[str]) -> None:
    store = opened()
    with store.shared("one") as directory:
        put(store, f"{directory}/a")
        ready.put(directory)
        signal.pause()


def test_a_shared_directory_of_a_dead_process_is_removed(store, opened):
    theirs, kill = held(hold_shared, opened)
    kill()
    assert store.files(theirs)
    with store.shared("one"):
        assert store.files(theirs) == []


def test_json_knows_whether_it_is_whole(store):
    documents.write_json(store, "a.json", {"n": 1, "text": "é"})
    assert documents.read_json(store, "a.json")["text"] == "é"
    whole = get(store, "a.json")
    for end in range(len(whole)):
        put(store, "a.json", whole[:end])
        assert documents.read_json(store, "a.json") is None
    for place in range(len(whole)):
        put(store, "a.json", whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert documents.read_json(store, "a.json") is None, place
    assert documents.read_json(store, "nothing.json") is None


def test_an_engine_gets_local_paths_of_files_as_they_are_now(store, opened):
    put(store, "d/a.csv", b"1")
    put(store, "d/b.csv", b"2")
    first, other = store.on_disk(["d/a.csv", "d/b.csv"])
    assert [Path(path).read_bytes() for path in (first, other)] == [b"1", b"2"]
    assert store.on_disk(["d/b.csv"]) == [other]
    put(opened(), "d/a.csv", b"new")
    assert Path(*store.on_disk(["d/a.csv"])).read_bytes() == b"new"
    assert store.on_disk([]) == []


def test_a_large_file_is_published_whole(store):
    content = os.urandom(1 << 20) * 21
    put(store, "a", content)
    (listed,) = store.files("")
    assert listed == store.stat("a")
    with store.reading("a") as handle:
        assert handle.read() == content
        assert store.version(handle) == listed.version
    put(store, "a", content + b"x", replaces=listed.version)
    assert get(store, "a") == content + b"x"


def test_names_are_kept_as_they_are(store):
    names = ["d/a b.csv", "d/100%25.csv", "d/é+ü&?#=.csv", "d/[1]*.csv", "d/'\".csv", "d/~tilde.csv"]
    for name in names:
        put(store, name, name.encode())
    assert [f"d/{file.path}" for file in store.files("d")] == sorted(names)
    assert [get(store, name) for name in names] == [name.encode() for name in names]


def test_a_page_is_read_as_far_as_was_asked(store):
    documents.write_text(store, "page.html", "abc")
    assert documents.read_text(store, "page.html", 2) == "ab"
    assert documents.read_text(store, "nothing.html", 2) is None


# ------------------------------------------------------------------------------------------------ one over another

STEPS = ["put d/a", "put d/new", "remove d/b", "put d/b", "remove d/new", "remove d/e/1", "remove d/c", "put d/f/g/1"]


@pytest.mark.parametrize("kind", ["local", "moto"])
def test_what_lies_over_a_store_looks_like_a_copy_of_it_and_changes_nothing(kind, tmp_path, monkeypatch):
    """After each of the steps, everything that can be asked is answered as by a store to which the same was done."""
    if kind == "local":
        base: Store = LocalStore(str(tmp_path / "below"))
    else:
        for name, value in SERVERS[kind]().environment.items():
            monkeypatch.setenv(name, value)
        base = ObjectStore(objectstores.new_root(), lease=2)
    plain = LocalStore(str(tmp_path / "plain"))
    for path in ("d/a", "d/b", "d/c", "d/e/1", "d/e/_2", "top"):
        put(base, path, path.encode())
        put(plain, path, path.encode())
    (tmp_path / "over").mkdir()
    over = Overlay(base, LocalStore(str(tmp_path / "over")))
    before = {path: base.stat(path) for path in ("d/a", "d/b", "d/c", "d/e/1")}
    known = over.listings("d", 0, lambda name: True)[""].digest
    assert known == base.listings("d", 0, lambda name: True)[""].digest, "what is known of a lake holds for one over it"
    for number, step in enumerate(STEPS):
        action, _, path = step.partition(" ")
        for store in (over, plain):
            if action == "put":
                put(store, path, f"{number}".encode())
            else:
                store.remove(path)
        for directory, depth in (("", 0), ("", 1), ("", 2), ("d", 0), ("d", 1), ("d", 2), ("d/e", 0), ("x", 0)):
            found = [
                {below: [(file.name, file.size) for file in listing.files()] for below, listing in listings.items()}
                for listings in (s.listings(directory, depth, lambda name: name[0] != "_") for s in (over, plain))
            ]
            assert found[0] == found[1], (step, directory, depth)
            for name in ("a", "b", "1", "top"):
                named = [
                    {below: file.size for below, file in s.named(directory, depth, name).items()} for s in (over, plain)
                ]
                assert named[0] == named[1], (step, directory, depth, name)
        for name in ("d/a", "d/b", "d/c", "d/new", "d/e/1", "top"):
            assert (over.stat(name) is None) == (plain.stat(name) is None), (step, name)
            if plain.stat(name):
                assert get(over, name) == get(plain, name) == Path(*over.on_disk([name])).read_bytes()
            else:
                with pytest.raises(MissingError, match=name):
                    get(over, name)
    assert before == {path: base.stat(path) for path in before}
    assert over.listings("d", 0, lambda name: True)[""].digest != known
    with pytest.raises(ChangedError):
        put(over, "d/a", replaces=None)
    with over.reading("top") as handle:
        assert over.version(handle) == base.stat("top").version


# ------------------------------------------------------------------------------------------------ the local disk alone


@pytest.fixture
def disk(tmp_path: Path) -> tuple[LocalStore, Path]:
    return LocalStore(str(tmp_path)), tmp_path


def test_links_and_directories_are_no_files_and_can_be_named(disk):
    store, root = disk
    (root / "d/below").mkdir(parents=True)
    (root / "d/file").write_text("x")
    (root / "d/link").symlink_to(root / "d/file")
    assert [file.name for file in store.files("d")] == ["file"]
    assert store.others("d") == ["below", "link"]
    assert store.stat("d/link") is None


@pytest.mark.skipif(bool(calls.supported()), reason="cannot make system calls fail here")
@pytest.mark.parametrize(("depth", "path"), [(0, "d/file"), (1, "d/link")])
def test_what_the_disk_refuses_to_look_at_is_named(disk, depth, path):
    store, root = disk
    (root / "d/below").mkdir(parents=True)
    (root / "d/file").write_text("x")
    (root / "d/link").symlink_to(root / "d/below")

    def listing() -> bool:
        with pytest.raises(LakeError, match=f"cannot read .*/{path}: the disk failed to read"):
            store.listings("d", depth, lambda name: True)
        return False

    def decide(call: calls.Call) -> int | None:
        return errno.EIO if call.path == str(root / path) else None

    assert calls.supervise(listing, decide, [str(root)], 10, calls.LOOKING) == 0


@pytest.mark.skipif(bool(calls.supported()), reason="cannot make system calls fail here")
def test_a_project_file_that_cannot_be_looked_at_is_not_missing(tmp_path):
    """Else a domain would be judged by the rules that come with lakejobs instead of its own."""
    (tmp_path / "sales.json").write_text("{}")

    def look() -> bool:
        with pytest.raises(LakeError, match=r"sales.json cannot be read: Input/output error"):
            project.exists(str(tmp_path / "sales.json"))
        return False

    assert calls.supervise(look, lambda call: errno.EIO, [str(tmp_path)], 10, calls.LOOKING) == 0
    assert project.exists(str(tmp_path / "sales.json"))
    assert not project.exists(str(tmp_path / "sales.json/below"))
    assert not project.exists(str(tmp_path / "other.json"))


def test_a_write_in_place_is_another_version_though_size_and_date_stay(disk):
    store, root = disk
    (root / "a").write_text("1")
    before, known = store.stat("a"), (root / "a").stat()
    (root / "a").write_text("2")
    os.utime(root / "a", ns=(known.st_atime_ns, known.st_mtime_ns))
    after = store.stat("a")
    assert before is not None and after is not None
    assert (before.size, before.modified_ns) == (after.size, after.modified_ns)
    assert before.version != after.version


def test_a_file_is_copied_from_its_beginning(disk):
    store, root = disk
    (root / "a").write_bytes(b"abc")
    with store.reading("a") as handle:
        handle.read(1)
        handle.seek(0)
        copy(handle, str(root / "b"))
    assert (root / "b").read_bytes() == b"abc"
