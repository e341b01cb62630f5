"""Frozen values that say what was declared; `load` alone reads files."""
