"""Power cuts: changes that were not fsynced may be lost, truncated, zeroed or reordered.

A run's changes to the lake are recorded call by call. The model of the disk is as loose as file systems may be: what
was written to a file since its last fsync may be present, missing, truncated or zeroed, and any of the names added,
changed or removed in a directory since its last fsync may have taken effect or not, in any order. For a power cut at
any call, possible disks are created, read, and run on.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torture import calls
from torture.lakes import TIMEOUT, Place, Row, Workshop, after, ask, is_old_or_new, see_run_see, seeded, spread
from torture.scenarios import SCENARIOS, Prepared

MODES = ("lost", "names only", "zeroed", "mixed")
"""The fate of changes not fsynced: all lost; names kept without content; content zeroed; a random fate for each."""


@dataclass(frozen=True)
class Event:
    """A change to the lake: the call's name, its paths relative to the lake, and the data and offset of a write."""

    name: str
    paths: tuple[str, ...]
    flags: int = 0
    offset: int = 0
    data: bytes = b""


def record(place: Place) -> list[Event]:
    """Run, and return every change to the lake."""
    root, events = str(place.root), []

    def note(call: calls.Call) -> None:
        paths = tuple(os.path.relpath(path, root) for path in call.paths)
        if call.name in calls.WRITES:
            events.append(Event("write", paths, 0, call.offset, call.data))
        elif call.name in ("ftruncate", "truncate"):
            events.append(Event("truncate", paths, 0, call.arguments[1]))
        elif call.name in calls.OPENS and call.changes:
            events.append(Event("open", paths, call.flags))
        elif call.name in ("fsync", "fdatasync"):
            events.append(Event("fsync", paths))
        elif call.name in ("mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"):
            events.append(Event(call.name.rstrip("at2") if call.name != "rmdir" else "unlink", paths))
        elif call.changes:
            raise NotImplementedError(f"the model of the disk knows no {call}")

    assert calls.supervise(place.command(), note, [f"{root}/datalake"], TIMEOUT) == 0, place.said()
    return events


# ------------------------------------------------------------------------------------------------ the disk


@dataclass
class File:
    """A file: the content that is safe on disk, and the writes since."""

    safe: bytes = b""
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)

    def now(self) -> bytes:
        return apply(self.safe, self.pending)


@dataclass
class Directory:
    """A directory: the names that are safe on disk, and the changes since."""

    safe: dict[str, File | Directory] = field(default_factory=dict)
    pending: list[tuple[str | None, str | None, File | Directory]] = field(default_factory=list)
    """Old name or None, new name or None, and the file or directory."""

    def now(self) -> dict[str, File | Directory]:
        return rename(self.safe, self.pending)


def rename(
    names: dict[str, File | Directory], changes: list[tuple[str | None, str | None, File | Directory]]
) -> dict[str, File | Directory]:
    names = dict(names)
    for old, new, node in changes:
        if old is not None and names.get(old) is node:
            del names[old]
        if new is not None:
            names[new] = node
    return names


def apply(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    made = bytearray(content)
    for kind, offset, data in changes:
        if kind == "truncate":
            del made[offset:]
            made.extend(bytes(offset - len(made)))
        else:
            made.extend(bytes(max(0, offset - len(made))))
            made[offset : offset + len(data)] = data
    return bytes(made)


class Disk:
    """A disk: its safe content and the pending changes."""

    def __init__(self, base: Path) -> None:
        """A disk with the content of a directory, all of it safe."""
        self.root = Directory()
        for path in sorted(base.rglob("*")):
            node = Directory() if path.is_dir() else File(path.read_bytes())
            parent, name = self.place(str(path.relative_to(base)))
            parent.safe[name] = node

    def place(self, path: str) -> tuple[Directory, str]:
        """A path's parent directory, and its name in it."""
        *parents, name = path.split("/")
        here = self.root
        for part in parents:
            here = here.now()[part]  # type: ignore[assignment]
        return here, name

    def do(self, event: Event) -> None:
        if event.paths[0].endswith(" (deleted)"):
            return
        directory, name = self.place(event.paths[0])
        node = directory.now().get(name)
        match event.name:
            case "open":
                if node is None:
                    directory.pending.append((None, name, File()))
                elif event.flags & os.O_TRUNC:
                    node.pending.append(("truncate", 0, b""))  # type: ignore[union-attr,arg-type]
            case "write" | "truncate":
                node.pending.append((event.name, event.offset, event.data))  # type: ignore[union-attr,arg-type]
            case "fsync":
                node.safe, node.pending = node.now(), []  # type: ignore[union-attr]
            case "mkdir":
                if node is None:
                    directory.pending.append((None, name, Directory()))
            case "unlink":
                if node is not None:
                    directory.pending.append((name, None, node))
            case "rename":
                to, new = self.place(event.paths[1])
                if node is not None:
                    assert to is directory, "a name moves within its directory"
                    directory.pending.append((name, new, node))
            case _:
                raise NotImplementedError(event.name)

    def after_power_loss(self, mode: str, chance: random.Random) -> dict[str, bytes | None]:
        """A possible state after a power cut: content by path, None for directories."""
        found: dict[str, bytes | None] = {}

        def walk(directory: Directory, path: str) -> None:
            changes = directory.pending
            if mode == "lost":
                changes = []
            elif mode == "mixed":
                changes = [change for change in changes if chance.random() < 0.5]
            for name, node in rename(directory.safe, changes).items():
                if isinstance(node, Directory):
                    found[f"{path}{name}"] = None
                    walk(node, f"{path}{name}/")
                else:
                    found[f"{path}{name}"] = content(node)

        def content(file: File) -> bytes:
            how = chance.choice(("lost", "names only", "zeroed", "cut", "some", "all")) if mode == "mixed" else mode
            if how in ("lost", "names only"):
                return file.safe
            if how == "zeroed":
                return file.safe + bytes(max(0, len(file.now()) - len(file.safe)))
            if how == "cut":
                whole = file.now()
                return whole[: chance.randint(0, len(whole))] if file.pending else whole
            if how == "some":
                return apply(file.safe, [change for change in file.pending if chance.random() < 0.5])
            return file.now()

        walk(self.root, "")
        return found


def put(content: dict[str, bytes | None], directory: Path) -> None:
    """Write the content to real files."""
    for path, data in content.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(exist_ok=True) if data is None else target.write_bytes(data)


# ------------------------------------------------------------------------------------------------ the family


def losses(short: bool, seed: int) -> Iterator[Row]:
    for scenario in SCENARIOS[:2] if short else SCENARIOS:
        with Workshop() as workshop:
            prepared = Prepared(scenario, workshop)
            place = prepared.place()
            base = place.copy(workshop.new().root)
            events = record(place)
            row = Row(
                f"power lost after a call, {scenario.name}: un-fsynced changes lost, cut, zeroed, reordered", seed
            )
            row.add(is_complete(base, place, events), 0)
            cuts = [(number, mode) for number in range(len(events) + 1) for mode in MODES]
            if short:
                cuts = seeded(seed, "power", scenario.name).sample(cuts, 8)
            row.add(spread(lambda cut: after_cut(prepared, workshop, base, events, seed, cut), cuts), len(cuts))  # noqa: B023
            yield row


def replayed(base: Place, events: list[Event]) -> Disk:
    disk = Disk(base.root)
    for event in events:
        disk.do(event)
    return disk


def is_complete(base: Place, place: Place, events: list[Event]) -> list[str]:
    """Check that every change was recorded: replaying them must give exactly the files that the run left."""
    found = replayed(base, events).after_power_loss("everything", random.Random(0))
    wrong = [
        name
        for name, data in found.items()
        if name.startswith("datalake/") and data is not None and (place.root / name).read_bytes() != data
    ]
    real = {str(path.relative_to(place.root)) for path in place.root.glob("datalake/**/*")}
    wrong += sorted(real ^ {name for name in found if name.startswith("datalake/")})
    return [f"the record of the run is not complete: {wrong}"] if wrong else []


def after_cut(
    prepared: Prepared, workshop: Workshop, base: Place, events: list[Event], seed: int, cut: tuple[int, str]
) -> list[str]:
    number, mode = cut
    place = workshop.new()
    disk = replayed(base, events[:number]).after_power_loss(mode, seeded(seed, "power", *cut))
    place.root.mkdir()
    put(disk, place.root)
    # A staged file's modification date can be its moment of delivery.
    for path in base.root.glob("local_output/*/*.csv"):
        shutil.copystat(path, place.root / path.relative_to(base.root))
    violations = []
    for name, data in disk.items():
        if name.startswith("datalake/bronze/") and name.endswith(".csv"):
            delivered = [path.read_bytes() for path in base.root.glob("local_output/*/*.csv")]
            delivered += [path.read_bytes() for path in base.root.glob("datalake/bronze/**/*.csv")]
            if data not in delivered:
                violations.append(f"{name} is none of the files delivered")
        if name.endswith(".html") and data is not None and not data.rstrip().endswith(b"</html>"):
            violations.append(f"{name} is no whole page")
    # Most disks differ only in files not yet visible, so all are read, but only every eighth is run on.
    if (number + MODES.index(mode)) % 8:
        found = place.look()
        violations += found["troubles"] + is_old_or_new(found["content"], prepared.old, prepared.new)
    else:
        found = ask(see_run_see, str(place.root))
        violations += found["before"]["troubles"]
        violations += is_old_or_new(found["before"]["content"], prepared.old, prepared.new)
        violations += after(found, prepared.new, place.said())
    place.remove()
    return violations


FAMILIES = {"power": losses}
NEEDS_CALLS = {"power"}
