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
    come at once within the declaration, 0 where it is left to be derived. `synchronised`: all of a
    source's askers ask at the same instant (periodic only), as cameras on one trigger line do.
    """

    kind: Literal["periodic", "poisson", "gamma"]
    rate: float
    cv: float = 1.0
    burst: int = 0
    synchronised: bool = False


class Delay(Struct, frozen=True, kw_only=True):
    """A distribution of times by two of its quantiles, in ns."""

    p50_ns: int
    p99_9_ns: int


class Question(Struct, frozen=True, kw_only=True):
    """How the asker's side makes the model's input from raw files.

    `size` is width, height of the image given to the model (None: the image as it is); a pixel
    channel x becomes (x − mean) / std; `images` are stacked along the channels in given order.
    `mean` and `std` hold one number, or one for each channel of one image. `fit` says how an image
    of another size is made to fit: pulled to it, or shrunk whole onto a grey ground.
    """

    kind: Literal["image"]
    size: tuple[int, int] | None = None
    fit: Literal["stretch", "letterbox"] = "stretch"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] = "nchw"
    images: int = 1


class Answer(Struct, frozen=True, kw_only=True):
    """How the asker's side reads the model's outputs.

    `threshold` is the smallest score kept; `labels` name the classes in the model's order. The
    decoder "rows" reads what the lab's fused models give: finished boxes or classes, a row each.
    """

    kind: Literal["boxes", "mask", "class", "tensor"]
    decoder: Literal["", "nanodet", "defect-grid", "rows"] = ""
    threshold: float = 0.5
    labels: tuple[str, ...] = ()


class Variant(Struct, frozen=True, kw_only=True):
    """One executable form of a decision's model; `accuracy` is its share right, where declared.

    `service` is what a run takes by hardware type, and `memory_bytes` what a worker takes, as
    declared for planning before there is a profile; 0 and nothing where the file says nothing.
    `engine`, `precision`, `threads` (0: one for each core of the lane) and `sha256` (empty: any
    file) are a bundle's to say.
    """

    name: str
    model: str  # a single .onnx file; absolute, or relative to the estate file; "": planned only
    accuracy: float | None = None
    memory_bytes: int = 0
    service: dict[str, Delay] = {}
    engine: Literal["onnxruntime", "openvino"] = "onnxruntime"
    precision: Literal["", "f32", "bf16"] = ""  # an engine's own, where it has several
    threads: int = 0
    sha256: str = ""


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
    sources: dict[str, int] = {}  # site → how many ask there, each at the declared arrivals
    growth: dict[str, float] = {}  # quarter, such as "2027-Q1" → how many times today's questions
    data: str = ""  # its data class, one of the estate's
    jurisdictions: tuple[str, ...] = ()  # where it may be decided; empty: anywhere
    survives: tuple[Literal["node", "site", "link"], ...] = ("node", "site", "link")
    access: Delay | None = None  # round trip between the asker and its own site
    capture_ns: int = 0  # from the moment the question arises until it is sent; in the budget
    actuation_ns: int = 0  # from the answer in hand until something moves; after the budget
    bundle_sha256: str = ""  # of its bundle's manifest, which is its version; empty without one


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
    yearly_cost: float = 0.0  # of one node, in the estate's currency
    lead_weeks: int = 0  # from the order of a node to its first answer


class Site(Struct, frozen=True, kw_only=True):
    """A place with nodes. `http` is host:port (empty: not opened), `unix` a socket's path.

    A relative `unix` starts at the estate file, as `state` does. No hardware: lanes by default.
    `nodes` of that hardware stand there today; a plan may have up to `max_nodes`, of its hardware
    or of what it `offers`. `location` is latitude and longitude in degrees.
    """

    name: str
    hardware: str = ""
    http: str = "127.0.0.1:8700"
    unix: str = ""  # `load` fills in <state>/<site>.sock where the file says nothing
    jurisdiction: str = ""
    nodes: int = 1
    max_nodes: int = 16
    offers: tuple[str, ...] = ()  # hardware types beside its own
    location: tuple[float, float] | None = None
    yearly_cost: float = 0.0  # of keeping the site open, without its nodes


class Link(Struct, frozen=True, kw_only=True):
    """Two sites joined by a network; `rtt` is the round trip between them, where declared."""

    a: str
    b: str
    rtt: Delay | None = None


class DataClass(Struct, frozen=True, kw_only=True):
    """A kind of data: where it may be. Empty: anywhere."""

    name: str
    jurisdictions: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()


class Estate(Struct, frozen=True, kw_only=True):
    """Everything declared in one file. `state` is the one directory tidsram writes to.

    `load` gives at least one site (one called "local" where none is declared) and one decision.
    """

    name: str
    state: str = ".tidsram"
    sites: dict[str, Site] = {}
    hardware: dict[str, Hardware] = {}
    decisions: dict[str, Decision] = {}
    links: tuple[Link, ...] = ()
    data: dict[str, DataClass] = {}
    currency: str = "EUR"
    measured: str = ""  # where measured facts lie; `load` fills in <state>/measured
