"""A run's tasks: told apart from those of every other run, so that a scheduler never takes one for another.

What is due in a lake changes from run to run, and a task of the same name has something else to do each time. luigid
remembers tasks by id: one that it saw done a moment ago it does not give out again, and one that another run is doing
it gives to that run alone. Both would end with a run that has not done what it was started for. Runs keep out of each
other's way by the lake's own locks instead.
"""

from __future__ import annotations

import os
from typing import Any

import luigi

RUN = f"{os.getpid():x}{os.urandom(4).hex()}"


class LakeTask(luigi.Task):
    """A task of this run. Worker processes of a run are forked, so they agree on its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task_id = f"{self.task_id}_{RUN}"
