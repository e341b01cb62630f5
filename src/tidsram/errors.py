"""Every deliberate error: a code, the facts as attributes, and a sentence with its remedy.

No error here knows a transport; `outcome` maps codes to HTTP and gRPC, `cli` to exit statuses.
"""


class TidsramError(Exception):
    """Something a person can act on. `str()` is the whole sentence; no traceback is needed."""

    code = "error"


class EstateError(TidsramError):
    """The declared estate cannot be used; the sentence names file, table, key, what is allowed."""

    code = "estate"

    def __init__(self, where: str, problem: str) -> None:
        self.where, self.problem = where, problem
        super().__init__(f"{where}: {problem}")


class ModelRefused(TidsramError):
    """A model file that this node will not load, with the line that fixes it."""

    code = "model-refused"

    def __init__(self, model: str, problem: str, remedy: str) -> None:
        self.model, self.problem, self.remedy = model, problem, remedy
        super().__init__(f"model {model}: {problem}. {remedy}")


class NodeError(TidsramError):
    """The node cannot start or go on; the sentence says what the operator should change."""

    code = "node"


class QuestionError(TidsramError):
    """A question that cannot be made into tensors, or an answer that cannot be read."""

    code = "question"


class PlanError(TidsramError):
    """The estate cannot be planned; the sentence names the place in it and the line to change."""

    code = "plan"

    def __init__(self, where: str, problem: str) -> None:
        self.where, self.problem = where, problem
        super().__init__(f"{where}: {problem}")
