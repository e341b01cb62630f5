"""A decision's models and slots: memory that outlives the workers and gates that use it."""

import mmap
import os

from tidsram.errors import NodeError
from tidsram.protocol.tensors import ModelSpec, difference
from tidsram.protocol.wire import MARK, TAKEN
from tidsram.serve.messages import Loaded, Pool
from tidsram.serve.versions import Version


class Pooled:
    """A decision's versions, and what is known once its first worker has loaded one.

    `own` is what the estate declares, `before` what was served before `version`, oldest first.
    """

    def __init__(self, own: Version) -> None:
        self.own = self.version = own
        self.before: list[Version] = []
        self.message: Pool | None = None
        self.fd = -1
        self.spec: ModelSpec | None = None


def keep_as_loaded(version: Version, loaded: Loaded, model_fds: list[int]) -> None:
    """Keep the models as they were loaded, so that later workers need not inspect them."""
    rungs = [rung for rung, warm_up_ns in enumerate(loaded.warm_up_ns) if warm_up_ns]
    for rung, model_fd in zip(rungs, model_fds, strict=True):
        if rung in version.model_fds:
            os.dup2(model_fd, version.model_fds[rung], inheritable=False)
    version.inspected = True


def at_odds(pooled: Pooled) -> NodeError:
    """Say that the workers of a decision do not serve the same."""
    return NodeError(
        f"decision {pooled.own.decision.name!r}: its workers do not agree on the model's inputs "
        f"and outputs, as a variant left the ladder of one of them only. Start the node again, or "
        f"take out the variant that is named above."
    )


def misfit(pooled: Pooled, loaded: Loaded) -> str:
    """Say why another version does not fit the slots; empty where it does."""
    assert pooled.spec is not None
    assert pooled.message is not None
    layout, why = pooled.message.layout, difference(loaded.spec, pooled.spec, "what is served")
    if not why:
        outputs = zip(loaded.spec.outputs, loaded.output_seen, layout.output_room, strict=True)
        for tensor, seen, room in outputs:
            if seen > room:
                why = f"its output {tensor.name!r} took {seen} bytes, and slots keep {room} for it"
    return f"{why}. Start the node again with an estate that names it" if why else ""


def is_unused(pooled: Pooled) -> bool:
    """Whether no question has a slot: none runs, none waits, none is arriving."""
    if pooled.message is None:
        return True
    layout = pooled.message.layout
    with mmap.mmap(pooled.fd, layout.pool_bytes, prot=mmap.PROT_READ) as memory:
        states = (MARK.unpack_from(memory, i * layout.slot_bytes)[0] for i in range(layout.slots))
        return TAKEN not in states
