"""Rules: the suites, their evaluation by Great Expectations, and its import."""
