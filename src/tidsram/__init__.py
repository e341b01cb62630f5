"""Declare the latency budget of every decision; tidsram answers inside it, or says so at once."""

__version__ = "0.1.0"
