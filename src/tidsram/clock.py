"""The only module that reads a clock. Instants are nanoseconds on the machine's monotonic clock.

The clock is one for all processes of a machine (CLOCK_MONOTONIC), so the gate's and the workers'
stamps subtract from each other; wall time is for people and for same-host capture stamps only.
"""

import time

now_ns = time.monotonic_ns
thread_cpu_ns = time.thread_time_ns
wall_ns = time.time_ns


def sleep_ns(duration_ns: int) -> None:
    """Block this thread; for tools and supervisors, never for the request path."""
    if duration_ns > 0:
        time.sleep(duration_ns / 1e9)


def sleep_until_ns(instant_ns: int) -> None:
    """Block until `instant_ns`; returns at once when it has passed."""
    sleep_ns(instant_ns - time.monotonic_ns())


def today() -> str:
    """Return the local date and time for a report, such as "2026-11-24 06:10"."""
    return time.strftime("%Y-%m-%d %H:%M")
