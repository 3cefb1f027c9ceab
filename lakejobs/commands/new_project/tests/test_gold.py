"""Runs every example in gold/<table>.test.yaml as a test: run `pytest`.

Install pytest with `pip install pytest`; `lakejobs test` runs the same examples without it.
"""

import pytest

from lakejobs.commands import testing


@pytest.mark.parametrize("case", testing.cases(), ids=str)
def test_gold(case: testing.Case) -> None:
    case.check()
