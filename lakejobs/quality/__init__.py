"""Rules: the suites, their evaluation by Great Expectations, and what concerns importing it."""
