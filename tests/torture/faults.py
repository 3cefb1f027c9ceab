"""Storage that is full, broken, read-only or out of descriptors: at each call in turn, and on a real small disk."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from torture import calls
from torture.lakes import (
    TIMEOUT,
    Place,
    Row,
    Workshop,
    after,
    ask,
    differences,
    is_old_or_new,
    see_run_see,
    seeded,
    shown,
    spread,
)
from torture.scenarios import SCENARIOS, Prepared

MOST = 100
"""How many of the calls that only read get a fault, chosen at random; every call that writes gets one."""
WHERE = ("datalake", "local_output", "expectations")


@dataclass(frozen=True)
class Fault:
    """An error for calls of some names: for a single call, or (`lasting`) for all calls from one on."""

    error: int
    names: tuple[str, ...]
    lasting: bool

    def __str__(self) -> str:
        kind = {calls.MUTATING: "writing", calls.READING: "reading", calls.LOOKING: "stat", calls.OPENS: "open"}
        return f"{errno.errorcode[self.error]} {'from' if self.lasting else 'at'} a call on ({kind[self.names]})"


FAULTS = [
    Fault(errno.ENOSPC, calls.MUTATING, True),
    Fault(errno.EIO, calls.MUTATING, False),
    Fault(errno.EROFS, calls.MUTATING, True),
    Fault(errno.EMFILE, calls.OPENS, False),
    Fault(errno.EIO, calls.READING, False),
    Fault(errno.EIO, calls.LOOKING, False),
]


def at_every_call(short: bool, seed: int) -> Iterator[Row]:
    with Workshop() as workshop:
        prepared = Prepared(SCENARIOS[1], workshop)
        for fault in FAULTS:
            points = range(count(prepared, fault))
            row = Row(f"{fault}", seed)
            most = 2 if short else len(points) if fault.names == calls.MUTATING else MOST
            points = seeded(seed, str(fault)).sample(points, min(most, len(points)))  # type: ignore[assignment]
            row.add(spread(lambda point: fail_at(prepared, fault, point), points), len(points))  # noqa: B023
            yield row


def concerns(fault: Fault, call: calls.Call) -> bool:
    """Whether the fault can happen to a call: reading cannot fail because the disk is full."""
    if fault.names == calls.MUTATING:
        return call.changes and not (fault.error == errno.ENOSPC and call.name in ("unlink", "unlinkat", "rmdir"))
    return call.name in fault.names


def count(prepared: Prepared, fault: Fault) -> int:
    """Count the calls of a run that the fault can happen to."""
    place, seen = prepared.place(), 0

    def decide(call: calls.Call) -> None:
        nonlocal seen
        seen += concerns(fault, call)

    roots = [f"{place.root}/{name}" for name in WHERE]
    assert calls.supervise(place.command(), decide, roots, TIMEOUT, fault.names) == 0, place.said()
    place.remove()
    return seen


def fail_at(prepared: Prepared, fault: Fault, number: int) -> list[str]:
    place, seen, met = prepared.place(), -1, ""

    def decide(call: calls.Call) -> int | None:
        nonlocal seen, met
        if not concerns(fault, call):
            return None
        seen += 1
        if seen == number or (fault.lasting and seen > number):
            met = met or str(call)
            return fault.error
        return None

    roots = [f"{place.root}/{name}" for name in WHERE]
    code = calls.supervise(place.command(), decide, roots, TIMEOUT, fault.names)
    said = place.said()
    found = ask(see_run_see, str(place.root))
    violations = judge(prepared, place, found, code, said)
    place.remove()
    return [f"{met}: {violation}" for violation in violations]


def judge(prepared: Prepared, place: Place, found: dict, code: int, said: str) -> list[str]:
    """Return the violations after a run on failing storage and a rerun on healthy storage."""
    violations = found["before"]["troubles"] + is_old_or_new(found["before"]["content"], prepared.old, prepared.new)
    if code < 0:
        violations.append(f"the run was ended by signal {-code}")
    if code == 0:
        violations += [f"the run succeeded, but {d}" for d in differences(found["before"]["content"], prepared.new)]
    elif not clear(said):
        violations.append(f"the run ended with {code} and said nothing clear: {shown(said)}")
    if "Traceback" in said or re.search(r"^\w+Error\b", said, re.MULTILINE):
        violations.append(f"a traceback was shown: {shown(said)}")
    return violations + after(found, prepared.new, place.said()[len(said) :])


def clear(said: str) -> bool:
    """Whether the message names a file or directory of the lake and the reason."""
    return bool(
        re.search(r"cannot \w+ .*(datalake|local_output|expectations).*: \w|expectations.*cannot be read", said)
    )


# ------------------------------------------------------------------------------------------------ real disks


def real_disks(short: bool, seed: int) -> Iterator[Row]:
    """Lakes on their own file system that is too small or read-only. Needs permission to mount."""
    with Workshop() as workshop:
        prepared = Prepared(SCENARIOS[1], workshop)
        if not mount(workshop.new().root, "size=64k"):
            return
        need = sum((path.stat().st_blocks + 8) * 512 for path in prepared.base.root.glob("**/*")) // 1024
        sizes = range(need, need + 400, 100 if short else 8)
        row = Row("a tmpfs with too little room, of growing size", seed)
        row.add(spread(lambda size: small_disk(prepared, workshop, size), sizes), len(sizes))
        yield row
        row = Row("a file system that is mounted read-only", seed)
        row.add(read_only_disk(prepared, workshop))
        yield row


def mount(directory: os.PathLike[str], options: str) -> bool:
    os.makedirs(directory, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "lakejobs-torture", str(directory)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def small_disk(prepared: Prepared, workshop: Workshop, kilobytes: int) -> list[str]:
    """Run a lake on a disk of this size, then grow the disk and run again."""
    root = workshop.new().root
    assert mount(root, f"size={kilobytes}k")
    try:
        place = prepared.base.copy(root / "lake")
        place.log = workshop.new().root
        code = place.run()
        said = place.said()
        subprocess.run(["mount", "-o", "remount,size=64m", str(root)], check=True)
        found = ask(see_run_see, str(place.root))
        return judge(prepared, place, found, code, said)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def read_only_disk(prepared: Prepared, workshop: Workshop) -> list[str]:
    root = workshop.new().root
    assert mount(root, "size=64m")
    try:
        place = prepared.base.copy(root / "lake")
        place.log = workshop.new().root
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        code = place.run()
        said = place.said()
        found = place.look()["content"]
        subprocess.run(["mount", "-o", "remount,rw", str(root)], check=True)
        violations = [] if "read-only" in said and code else [f"the run ended with {code} and said {said[-500:]}"]
        violations += differences(found, prepared.old)
        after = ask(see_run_see, str(place.root))
        violations += judge(prepared, place, after, code, said)
        # A run with nothing to do works on a read-only disk.
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        if place.run():
            violations.append(f"a run with nothing to do failed on a read-only disk: {place.said()[-500:]}")
        return violations
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


FAMILIES = {"storage": at_every_call, "disks": real_disks}
NEEDS_CALLS = {"storage"}
