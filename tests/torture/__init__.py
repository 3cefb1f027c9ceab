"""Faults really injected into real runs, and what the lake must be like afterwards. See README.md."""
