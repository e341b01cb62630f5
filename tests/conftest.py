"""How the tests draw their examples: the same ones each time, or many new ones."""

from hypothesis import settings

# Reproducible: a change that breaks a test breaks it for everyone, and one that does not, never.
settings.register_profile("default", derandomize=True, deadline=None)
# For `make fuzz`: look further, remember what was found.
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile("default")
