"""One question from files, asked once, with everything a person wants to know about it."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidsram import clock
from tidsram.client.answer import Reading, Tensors, read
from tidsram.client.connection import Connection
from tidsram.client.files import Prepared, prepare
from tidsram.client.wire import Reply
from tidsram.errors import QuestionError
from tidsram.estate.types import Decision, Estate
from tidsram.estate.values import nearest
from tidsram.outcome import Outcome


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, what came of it, and where the time went by the asker's clock."""

    decision: str
    url: str
    budget_ns: int | None  # None: neither the estate at hand nor the asker named one
    prepared: Prepared
    reply: Reply
    reading: Reading | None
    prepare_ns: int
    read_ns: int

    @property
    def took_ns(self) -> int:
        """From the files on disk to the answer read."""
        return self.prepare_ns + self.reply.took_ns + self.read_ns

    @property
    def late(self) -> bool:
        """Answered, but past the deadline by our clock."""
        answered = self.reply.outcome is Outcome.ANSWERED
        return answered and self.budget_ns is not None and self.took_ns > self.budget_ns


def ask_once(
    name: str, files: Sequence[Path], *, url: str, estate: Estate | None, budget_ns: int | None
) -> Told:
    """Ask the decision `name` about what is in `files`; raises where no question can be made."""
    declared = estate.decisions.get(name) if estate else None
    budgets = [b for b in (budget_ns, declared.budget_ns if declared else None) if b is not None]
    with Connection(url) as connection:
        metadata = connection.metadata(name)
        if metadata is None:
            raise _unknown(name, connection)
        # The question arises now: the files lie there, and all that follows is on its budget.
        arose_ns = clock.now_ns()
        prepared = prepare(files, metadata, declared.question if declared else None)
        prepare_ns = clock.now_ns() - arose_ns
        reply = connection.ask(
            name,
            prepared.inputs,
            budget_ns=min(budgets, default=None),
            spent_ns=prepare_ns,
        )
    replied_ns = clock.now_ns()
    reading = _read(declared, prepared, reply) if reply.outcome is Outcome.ANSWERED else None
    return Told(
        decision=name,
        url=url,
        budget_ns=min(budgets, default=None),
        prepared=prepared,
        reply=reply,
        reading=reading,
        prepare_ns=prepare_ns,
        read_ns=clock.now_ns() - replied_ns,
    )


def _read(declared: Decision | None, prepared: Prepared, reply: Reply) -> Reading:
    """Read the answer as the estate declares; as plain tensors where it does not say how."""
    question = declared.question if declared else None
    model_size = question.size if question else None
    size = prepared.images[0].size if prepared.images else model_size
    if declared is None or declared.answer is None or size is None:
        return Tensors(reply.outputs)
    # Without pictures the frame itself is all there is: nothing was made to fit it.
    fit = question.fit if question and prepared.images else "stretch"
    return read(declared.answer, reply.outputs, size, model_size, fit)


def _unknown(name: str, connection: Connection) -> QuestionError:
    known = sorted(connection.health().get("decisions", {}))
    near = nearest(name, known) or f"; it serves {', '.join(known) or 'none'}"
    return QuestionError(f'the node at {connection.url} serves no decision "{name}"{near}')
