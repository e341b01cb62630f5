"""Decides which job runs where and when; never reads a clock, sleeps or does I/O."""
