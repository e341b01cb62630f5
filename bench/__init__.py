"""Measurements that anyone can repeat: `python -m bench`. Results go to docs/benchmarks.md."""
