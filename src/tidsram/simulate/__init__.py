"""The real scheduler in virtual time."""
