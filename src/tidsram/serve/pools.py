"""A decision's models and slots: memory that outlives the workers and gates that use it."""

import mmap
import os

from tidsram.errors import NodeError
from tidsram.estate.types import Decision
from tidsram.protocol.tensors import ModelSpec
from tidsram.protocol.wire import MARK, TAKEN
from tidsram.serve.messages import Loaded, Pool


class Pooled:
    """A decision's models, and what is known once its first worker has loaded them."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.model_fds: dict[int, int] = {}  # by rung, of the variants that are still served
        self.left_out: set[str] = set()
        self.message: Pool | None = None
        self.fd = -1
        self.spec: ModelSpec | None = None


def model_memory(name: str, data: bytes) -> int:
    """Put the model's bytes into memory that each of its workers reads."""
    fd = os.memfd_create(f"tidsram-model-{name}", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as out:
        out.write(data)
    return fd


def keep_as_loaded(pooled: Pooled, loaded: Loaded, model_fds: list[int]) -> None:
    """Keep the models as they were loaded, so that later workers need not inspect them."""
    rungs = [rung for rung, warm_up_ns in enumerate(loaded.warm_up_ns) if warm_up_ns]
    for rung, model_fd in zip(rungs, model_fds, strict=True):
        if rung in pooled.model_fds:
            os.dup2(model_fd, pooled.model_fds[rung], inheritable=False)


def at_odds(pooled: Pooled) -> NodeError:
    """Say that the workers of a decision do not serve the same."""
    return NodeError(
        f"decision {pooled.decision.name!r}: its workers do not agree on the model's inputs and "
        f"outputs, as a variant left the ladder of one of them only. Start the node again, or take "
        f"out the variant that is named above."
    )


def is_unused(pooled: Pooled) -> bool:
    """Whether no question has a slot: none runs, none waits, none is arriving."""
    if pooled.message is None:
        return True
    layout = pooled.message.layout
    with mmap.mmap(pooled.fd, layout.pool_bytes, prot=mmap.PROT_READ) as memory:
        states = (MARK.unpack_from(memory, i * layout.slot_bytes)[0] for i in range(layout.slots))
        return TAKEN not in states
