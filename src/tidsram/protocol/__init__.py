"""Bytes ↔ values. No I/O, clock, thread or randomness."""
