"""Runtimes behind one small protocol."""
