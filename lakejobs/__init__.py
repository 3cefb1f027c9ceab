"""lakejobs: a medallion lake as a Luigi pipeline. `luigi --module lakejobs` loads this module."""

from lakejobs import luigi_output

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
    "Views",
]

# First of all, so that Ctrl-C during the imports below ends with a sentence too.
luigi_output.install(__all__)

from lakejobs import config  # noqa: E402

config.apply_defaults()

from lakejobs.tasks import (  # noqa: E402 - only once Luigi has its settings
    Bronze,
    BronzeAll,
    Generate,
    GenerateAll,
    Gold,
    GoldAll,
    Report,
    Silver,
    SilverAll,
    Staging,
    Views,
)
