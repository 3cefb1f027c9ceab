"""Files of every kind that change behind the lake's back: truncated, with flipped bits, or replaced."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from torture.lakes import Place, Row, Workshop, add_rule, after, ask, differences, sale, see_run_see, seeded, spread
from torture.scenarios import DAY, NEW_RULES, late_rows, three_days

KINDS = {
    "silver": "datalake/silver/**/*.parquet",
    "gold": "datalake/gold/**/*.parquet",
    "manifest": "datalake/bronze/**/_manifest.json",
    "facts": "datalake/_facts_*.json",
    "validation": "datalake/quality/validations/**/[!_]*.json",
    "index of validations": "datalake/quality/validations/**/_index.json",
}
OFFSETS = 64
BITS = 64

Harm = Callable[[bytes, random.Random], bytes]


def cut(number: int) -> Harm:
    """Truncate at one of OFFSETS evenly spaced offsets."""
    return lambda content, chance: content[: number * len(content) // OFFSETS]


def flip(content: bytes, chance: random.Random) -> bytes:
    """Flip one bit."""
    harmed = bytearray(content)
    harmed[chance.randrange(len(harmed))] ^= 1 << chance.randrange(8)
    return bytes(harmed)


def damages(short: bool, seed: int) -> Iterator[Row]:
    """Damage several files of a kind at once, each in a different way; run, and compare."""
    with Workshop() as workshop:
        base = workshop.new().create()
        three_days(base)
        late_rows(base)
        assert base.run() == 0, base.said()
        expected = base.look()["content"]
        for kind in KINDS:
            for how, harms in (
                (f"truncated at {OFFSETS} offsets", [cut(number) for number in range(OFFSETS)]),
                ("with a flipped bit", [flip] * BITS),
            ):
                row = Row(f"{kind} file {how}", seed)
                lots = [(number, harms[number::8]) for number in range(8)]
                if short:
                    lots = lots[:1]
                found = spread(lambda lot: harm_and_run(workshop, base, kind, lot[1], seed, lot[0], expected), lots)  # noqa: B023
                row.add(found, sum(len(harms) for _, harms in lots))
                yield row


def harm_and_run(
    workshop: Workshop, base: Place, kind: str, harms: list[Harm], seed: int, number: int, expected: dict[str, str]
) -> list[str]:
    chance = seeded(seed, "damage", kind, number)
    violations = []
    while harms:
        place = base.copy(workshop.new().root)
        place.log.unlink()
        # Let the caches learn the copied files while they are whole.
        assert place.run() == 0
        found = sorted(place.root.glob(KINDS[kind]))
        if kind == "gold":
            found = [max(directory.glob("*.parquet")) for directory in sorted(place.root.glob("datalake/gold/*"))]
        files = chance.sample(found, min(len(found), len(harms)))
        for path in files:
            content = path.read_bytes()
            path.write_bytes(harms.pop()(content, chance))
        if kind == "validation":
            violations += after_damaged_validations(place, files)
        else:
            seen = ask(see_run_see, str(place.root))
            violations += after(seen, expected, place.said())
            for path in files:
                if kind in ("silver", "gold") and f"{path.relative_to(place.root)} is damaged" not in place.said():
                    violations.append(f"{path.relative_to(place.root)} was damaged and nothing was said")
        place.remove()
    return violations


def after_damaged_validations(place: Place, files: list[Path]) -> list[str]:
    """A damaged result is not rebuilt: a run must name it and no longer show it."""
    add_rule(place, "sales", NEW_RULES["sales"])
    violations = []
    if place.run() or "Traceback" in place.said():
        violations.append(f"the run failed: {place.said()[-1500:]}")
    index = (place.root / "datalake/quality/data_docs/index.html").read_text()
    for path in files:
        if path.stem + ".html" in index:
            violations.append(f"{path.name} is shown although it is damaged")
        if path.name not in place.said():
            violations.append(f"{path.name} is damaged and nothing was said")
    return violations


# ------------------------------------------------------------------------------------------------ bronze


def changed_bronze(short: bool, seed: int) -> Iterator[Row]:
    """Change bytes of a bronze file behind the lake's back, keeping its size and modification date."""
    row = Row("a bronze file changed, its size and modification date kept", seed)
    with Workshop() as workshop:
        for facts in (True, False):
            place = workshop.new().create()
            place.deliver("sales", "sales_20261101_080000.csv", [sale(n, DAY) for n in range(5)])
            place.deliver("sales", "sales_20261102_080000.csv", [sale(9, DAY.replace(day=2))])
            assert place.run() == 0 and place.run() == 0
            (path,) = place.root.glob("datalake/bronze/sales/**/sales_20261101_080000.csv")
            known = path.stat()
            path.write_bytes(path.read_bytes().replace(b",C1,", b",X1,"))
            os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
            if not facts:
                (place.root / "datalake/_facts_sales.json").unlink()
            code = place.run()
            row.add([] if code == 0 else [f"the run ended with {code}"])
            if "changed after it landed" not in place.said():
                row.violations.append(f"nothing was said of it ({'with' if facts else 'without'} the cache of facts)")
            fresh = workshop.new().create()
            fresh.deliver("sales", path.name, path.read_bytes())
            fresh.deliver("sales", "sales_20261102_080000.csv", [sale(9, DAY.replace(day=2))])
            assert fresh.run() == 0
            row.violations += differences(place.look()["content"], fresh.look()["content"])
            place.run()
            if "Did not run any tasks" not in place.said()[-500:]:
                row.violations.append("the lake is not complete afterwards")
    yield row


FAMILIES = {"damage": damages, "bronze": changed_bronze}
