"""A change in what the lake makes of a fixed input must come with a new version in its footers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from conftest import PROJECT, LakeUnderTest

from lakejobs.freshness import made_by

KNOWN = json.loads((PROJECT / "tests/fingerprints.json").read_text())
VERSIONS = {"silver": made_by.SILVER_VERSION, "gold": made_by.GOLD_VERSION}


@pytest.fixture
def content(lake: LakeUnderTest) -> dict[str, str]:
    """Fingerprints of all rows of each layer, built from the golden cases' input and some odd lines."""
    for directory in sorted((PROJECT / "tests/golden").glob("*/input")):
        for path in sorted(directory.glob("*/*.csv")):
            copy = Path(lake.root, "local_output", path.parent.name, f"{directory.parent.name}_{path.name}")
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
    odd = (
        b'sale_id,timestamp,quantity,category\nx1,2026-11-01 10:00:00+02:00,"1\n2",a\nx2;a,b\nx3,2026-11-01,3.0,\xe9\n'
    )
    lake.deliver_bytes("sales", "odd_20261101_120000.csv", odd)
    assert lake.run()
    rows = lake.content()
    return {
        layer: hashlib.sha256(
            json.dumps({name: found for name, found in rows.items() if name.startswith(layer)}).encode()
        ).hexdigest()
        for layer in VERSIONS
    }


def test_output_changes_only_with_the_version_of_its_layer(content):
    for layer, version in VERSIONS.items():
        now = {"version": version, "rows": content[layer]}
        if now["rows"] != KNOWN[layer]["rows"]:
            assert version > KNOWN[layer]["version"], (
                f"the same input now gives different rows in {layer}. If that is intended, raise "
                f"{layer.upper()}_VERSION in lakejobs/freshness/made_by.py, so that existing lakes are rebuilt, "
                f"and record it in tests/fingerprints.json: {now}"
            )
        assert now == KNOWN[layer], f"record it in tests/fingerprints.json: {now}"
