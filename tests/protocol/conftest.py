"""Hypothesis profiles: `make fuzz` asks for the long one."""

from hypothesis import settings

settings.register_profile("long", max_examples=5_000, deadline=None)
