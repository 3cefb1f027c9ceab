"""Inject real faults into real runs and check the lake afterwards. See README.md."""
