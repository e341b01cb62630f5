"""What a run takes without a question, timed alike for every engine."""

from tidsram import clock
from tidsram.engine.base import Engine
from tidsram.engine.memory import zeros

_TICKET = -1


def warm_up(engine: Engine, runs: int) -> list[int]:
    """Run on zeros; return each run's nanoseconds."""
    inputs = [zeros(tensor) for tensor in engine.spec.inputs]
    outputs = [zeros(t) if t.nbytes >= 0 else None for t in engine.spec.outputs]
    binding = engine.bind(inputs, outputs)
    times_ns = []
    for _ in range(runs):
        start_ns = clock.now_ns()
        engine.run(binding, _TICKET)
        times_ns.append(clock.now_ns() - start_ns)
    return times_ns
