"""lakejobs: a medallion lake as a Luigi pipeline. This module is what `luigi --module lakejobs` loads."""

import luigi

from lakejobs import config, console

__all__ = [
    "Bronze",
    "BronzeAll",
    "Generate",
    "GenerateAll",
    "Gold",
    "GoldAll",
    "Report",
    "Silver",
    "SilverAll",
    "Staging",
]

config.apply_defaults()
console.install(__all__)

from lakejobs.bronze import Bronze  # noqa: E402 - after Luigi has its settings
from lakejobs.gold import Gold  # noqa: E402
from lakejobs.pipeline import BronzeAll, Generate, GenerateAll, GoldAll, SilverAll  # noqa: E402
from lakejobs.report import Report  # noqa: E402
from lakejobs.silver import Silver  # noqa: E402
from lakejobs.staging import Staging  # noqa: E402

luigi.Task.event_handler(luigi.Event.FAILURE)(console.note_interruption)
