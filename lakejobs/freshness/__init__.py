"""Freshness: what every file should be built from now, what it was built from, and what other runs published."""
