"""A picture of what is made from what, as the numbers that the template draws: a column of boxes for each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

WIDTH, HEIGHT = 220, 44
"""Of a box, in pixels."""
GAP, ROOM = 12, 50
"""Between the boxes of a column, and between columns."""


@dataclass(frozen=True)
class Box:
    """Something in the lake."""

    layer: str
    name: str
    said: str
    """What stands below its name, besides its layer."""
    state: str
    """`good`, `bad` or `quiet`: its colour."""
    reads: Sequence[str] = ()
    """Keys of the boxes that it is made from."""
    link: str | None = None
    """A page, relative to the report."""


def picture(boxes: Mapping[str, Box]) -> dict[str, Any]:
    """Boxes and the lines between them. `boxes`: by key, each after those that it reads."""
    column: dict[str, int] = {}
    for key, box in boxes.items():
        column[key] = max((column[read] + 1 for read in box.reads), default=0)
    top = _tops(boxes, column)
    places = {key: (column[key] * (WIDTH + ROOM), top[key]) for key in boxes}
    lines = []
    for key, box in boxes.items():
        to_x, to_y = places[key][0], places[key][1] + HEIGHT / 2
        for read in box.reads:
            from_x, from_y = places[read][0] + WIDTH, places[read][1] + HEIGHT / 2
            middle = (from_x + to_x) / 2
            lines.append(f"M{from_x} {from_y:g}C{middle:g} {from_y:g} {middle:g} {to_y:g} {to_x} {to_y:g}")
    return {
        "width": (max(column.values(), default=0) + 1) * (WIDTH + ROOM) - ROOM,
        "height": max(top.values(), default=0) + HEIGHT,
        "box_width": WIDTH,
        "box_height": HEIGHT,
        "boxes": [asdict(box) | {"x": places[key][0], "y": places[key][1]} for key, box in boxes.items()],
        "lines": lines,
    }


def _tops(boxes: Mapping[str, Box], column: Mapping[str, int]) -> dict[str, float]:
    """Where the boxes begin: the last column from the top down, each earlier box in the middle of what reads it.

    A box that nobody reads, and one that would cover another, goes below the others of its column.
    """
    readers: dict[str, list[str]] = {key: [] for key in boxes}
    for key, box in boxes.items():
        for read in box.reads:
            readers[read].append(key)
    leaves = _leaves(boxes, readers)
    top: dict[str, float] = {key: place * (HEIGHT + GAP) for place, key in enumerate(leaves)}
    for key in reversed([*boxes]):
        if readers[key]:
            tops = [top[reader] for reader in readers[key]]
            top[key] = (min(tops) + max(tops)) / 2
    free: dict[int, float] = {}
    for key in sorted(boxes, key=lambda key: top[key]):
        top[key] = max(top[key], free.get(column[key], 0))
        free[column[key]] = top[key] + HEIGHT + GAP
    return top


def _leaves(boxes: Mapping[str, Box], readers: Mapping[str, Sequence[str]]) -> list[str]:
    """The boxes that nobody reads, those of the same first box next to each other."""
    found: dict[str, None] = {}

    def follow(keys: Iterable[str]) -> None:
        for key in keys:
            if readers[key]:
                follow(readers[key])
            else:
                found.setdefault(key)

    follow(key for key, box in boxes.items() if not box.reads)
    return list(found)


def upstream_and_down(boxes: Mapping[str, Box], key: str) -> dict[str, Box]:
    """A box, all that it is made from, and all that is made from it."""
    above = {key}
    for other in reversed([*boxes]):
        if other in above:
            above |= {*boxes[other].reads}
    below = {key}
    for other, box in boxes.items():
        if {*box.reads} & below:
            below.add(other)
    stay = above | below
    return {
        other: replace(box, reads=[read for read in box.reads if read in stay])
        for other, box in boxes.items()
        if other in stay
    }
