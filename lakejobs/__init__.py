"""lakejobs: a medallion lake as a Luigi pipeline. `luigi --module lakejobs` loads this module."""

from lakejobs import config, luigi_output

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
luigi_output.install(__all__)

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
)
