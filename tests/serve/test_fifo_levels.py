"""Which criticalities are at SCHED_FIFO: never so much that the kernel would freeze the lane."""

import pytest

from tidsram.serve.supervisor import FIFO_BELOW, fifo_levels


@pytest.mark.parametrize(
    ("busy", "critical", "levels"),
    [
        (0.3, 0.3, 2),
        (FIFO_BELOW, 0.3, 1),
        (1.0, 0.79, 1),
        (1.0, FIFO_BELOW, 0),
        (1.4, 1.0, 0),  # runs that preempt each other are counted twice
    ],
)
def test_critical_keeps_it_while_it_does_not_fill_the_lane(busy, critical, levels):
    """Standard work gives it up first, so that it cannot take critical work's away."""
    assert fifo_levels(busy, critical) == levels
