"""The declared world: what one `tidsram.toml` says, as frozen values with times in nanoseconds."""

from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

MAX_VARIANTS = 8  # each costs the decision's workers memory and time at the start


class Criticality(StrEnum):
    """Who may go first. The operating system's own preemption keeps it (DESIGN §3)."""

    CRITICAL = "critical"
    STANDARD = "standard"
    BEST_EFFORT = "best-effort"

    @property
    def rank(self) -> int:
        """0 for critical, 2 for best-effort: smaller goes first."""
        return _RANK[self]


_RANK = {Criticality.CRITICAL: 0, Criticality.STANDARD: 1, Criticality.BEST_EFFORT: 2}


class Arrivals(Struct, frozen=True, kw_only=True):
    """How often a decision's questions come: `rate` in questions per second.

    `cv` is the coefficient of variation of gamma's gaps (1 is poisson); `burst` is how many may
    come at once within the declaration, 0 where it is left to be derived.
    """

    kind: Literal["periodic", "poisson", "gamma"]
    rate: float
    cv: float = 1.0
    burst: int = 0


class Question(Struct, frozen=True, kw_only=True):
    """How the asker's side makes the model's input from raw files.

    `size` is width, height of the image given to the model (None: the image as it is); a pixel
    channel x becomes (x − mean) / std; `images` are stacked along the channels in given order.
    `mean` and `std` hold one number, or one for each channel of one image.
    """

    kind: Literal["image"]
    size: tuple[int, int] | None = None
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] = "nchw"
    images: int = 1


class Answer(Struct, frozen=True, kw_only=True):
    """How the asker's side reads the model's outputs.

    `threshold` is the smallest score kept; `labels` name the classes in the model's order.
    """

    kind: Literal["boxes", "mask", "class", "tensor"]
    decoder: Literal["", "nanodet", "defect-grid"] = ""
    threshold: float = 0.5
    labels: tuple[str, ...] = ()


class Variant(Struct, frozen=True, kw_only=True):
    """One executable form of a decision's model; `accuracy` is its share right, where declared."""

    name: str
    model: str  # a single .onnx file; absolute, or relative to the estate file
    accuracy: float | None = None


class Decision(Struct, frozen=True, kw_only=True):
    """One declared kind of question: its model, its budget and what it is promised.

    `ladder` holds the variants at or above the accuracy floor, the most accurate first, at least
    one. A variant's place in it is its rung.
    """

    name: str
    ladder: tuple[Variant, ...]
    budget_ns: int
    accuracy_floor: float = 0.0
    objective: float = 0.99
    criticality: Criticality = Criticality.STANDARD
    arrivals: Arrivals | None = None
    queue: Literal["edf", "newest"] = "edf"
    safe_action: dict[str, Any] | None = None
    record: Literal["none"] = "none"
    shapes: dict[str, tuple[int, ...]] = {}  # input → fixed shape, where the model leaves it open
    question: Question | None = None
    answer: Answer | None = None


def left_open(decision: Decision) -> Arrivals | None:
    """Return the arrivals whose burst matters and is not declared: a critical decision's."""
    declared = decision.arrivals
    critical = decision.criticality is Criticality.CRITICAL
    return declared if declared is not None and critical and not declared.burst else None


class Lane(Struct, frozen=True, kw_only=True):
    """A pinned set of cores."""

    cores: tuple[int, ...]
    device: Literal["cpu"] = "cpu"


class Hardware(Struct, frozen=True, kw_only=True):
    """What a node of this type is made of. No lanes declared: one per core but the first.

    `memory_bytes` is what tidsram may take of the machine's memory; 0: all of it.
    """

    lanes: tuple[Lane, ...] = ()
    memory_bytes: int = 0
    scheduling: Literal["auto", "fifo", "nice"] = "auto"


class Site(Struct, frozen=True, kw_only=True):
    """A place with a node. `http` is host:port (empty: not opened), `unix` a socket's path.

    A relative `unix` starts at the estate file, as `state` does. No hardware: lanes by default.
    """

    name: str
    hardware: str = ""
    http: str = "127.0.0.1:8700"
    unix: str = ""  # `load` fills in <state>/<site>.sock where the file says nothing


class Estate(Struct, frozen=True, kw_only=True):
    """Everything declared in one file. `state` is the one directory tidsram writes to.

    `load` gives at least one site (one called "local" where none is declared) and one decision.
    """

    name: str
    state: str = ".tidsram"
    sites: dict[str, Site] = {}
    hardware: dict[str, Hardware] = {}
    decisions: dict[str, Decision] = {}
