"""What a bundle's manifest says: the variants of a model, how each was proved, where all is from.

A bundle is a directory: manifest.json, variants/*.onnx, profiles/*.json, report.html. The SHA-256
of the manifest's bytes is the bundle's digest and so its version. Measured times are facts about a
machine and lie beside it: measuring anew does not make another version.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from tidsram.errors import EstateError
from tidsram.estate.questions import read_answer, read_question
from tidsram.estate.tables import Table
from tidsram.estate.types import MAX_VARIANTS, Answer, Decision, Question, Variant
from tidsram.estate.values import VERSION, show

MANIFEST, VARIANTS, PROFILES, REPORT = "manifest.json", "variants", "profiles", "report.html"

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
_Words = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*\Z")]
_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class Score(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well a variant does on the data, in [0, 1]; `metric` names how that is counted."""

    against: Literal["original", "labels"]
    metric: Literal["class agreement", "box F1", "mask IoU", "closeness"]
    value: _Share
    samples: _Count


class Tensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output; a size of -1 depends on the data."""

    name: _Words
    datatype: _Name
    shape: tuple[int, ...]


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant of the ladder. Its file is `variants/<name>.onnx`.

    `accuracy` is the score that counts: against labels where they were given, else against the
    original. `size` is what the model itself sees (width, height), where that is an image.
    """

    name: _Name
    sha256: _Digest
    bytes: _Count
    engine: Literal["onnxruntime", "openvino"] = "onnxruntime"
    precision: Literal["fp32", "int8", "bf16"] = "fp32"
    threads: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: one for each core of the lane
    size: tuple[int, int] | None = None
    accuracy: _Share = 1.0
    scores: tuple[Score, ...] = ()


class LeftOut(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variant that was made and is not in the ladder, and why."""

    name: _Name
    why: _Words
    accuracy: _Share | None = None


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that all variants were made from."""

    file: _Words  # its name, no directory
    sha256: _Digest


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle. `ladder` has the most accurate first, each faster than the one before."""

    format: Literal[1] = 1
    name: _Name
    question: Question | None = None
    answer: Answer | None = None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ladder: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MAX_VARIANTS)]
    left_out: tuple[LeftOut, ...] = ()
    accuracy_floor: _Share = 0.0
    source: Source
    data_sha256: _Digest  # of all that it was calibrated and validated with
    licence: _Words = ""
    provenance: _Words = ""
    made_with: dict[_Name, _Words] = {}  # package → version


class Bundle(Struct, frozen=True, kw_only=True):
    """A bundle that lies on disk. `sha256` is its version; `directory` is named as in the estate.

    `directory` is absolute, or relative to the estate file, and so are its variants' paths.
    """

    directory: str
    sha256: str
    manifest: Manifest


MAX_MANIFEST_BYTES = 4_000_000
_FORMAT = 1
_MAX_SIDE = 16384  # of an image, as in an estate
_MAX_AXES = 16
_MAX_AXIS = 2**31 - 1
_AGAIN = "make the bundle again with `tidsram lab`, or copy it again"


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Return what the manifest `content` says; `where` names it in complaints.

    It is read as if a stranger had written it, and its question and answer tables are held to the
    rules of an estate's.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise EstateError(where, f"is larger than {MAX_MANIFEST_BYTES // 10**6} MB; {_AGAIN}")
    try:
        document = msgspec.json.decode(content)
        _check_format(document, where)
        manifest = msgspec.convert(document, Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EstateError(where, f"is no manifest ({_line(error)}); {_AGAIN}") from None
    for problem in _contradictions(manifest):
        raise EstateError(where, f"contradicts itself: {problem}; {_AGAIN}")
    tables = {key: _declared(document[key]) for key in ("question", "answer") if document.get(key)}
    table = Table(where, (), "a manifest", tables, None)
    # The values are those of the structs; what counts here is that an estate might say them.
    return replace(manifest, question=read_question(table), answer=read_answer(table))


def ladder_of(manifest: Manifest, directory: str, floor: float = 0.0) -> tuple[Variant, ...]:
    """Return the variants of the bundle in `directory` at or above `floor`; there may be none."""
    return tuple(
        Variant(
            name=member.name,
            model=variant_path(directory, member.name),
            accuracy=member.accuracy,
            engine=member.engine,
            precision=_precision(member),
            threads=member.threads,
            sha256=member.sha256,
        )
        for member in manifest.ladder
        if member.accuracy >= floor
    )


def variant_path(directory: str, name: str) -> str:
    """Return where a bundle's variant lies."""
    return f"{directory.rstrip('/')}/{VARIANTS}/{name}.onnx"


def directory_of(decision: Decision) -> str:
    """Return the directory of the decision's bundle; empty where it has none."""
    if not decision.bundle_sha256:
        return ""
    return decision.ladder[0].model.rsplit("/", 2)[0]


def _precision(member: Member) -> Literal["", "f32", "bf16"]:
    """Pin what OpenVINO computes in, which else follows the processor: int8 has f32 between."""
    if member.precision == "bf16":
        return "bf16"
    return "f32" if member.engine == "openvino" else ""


def _check_format(document: object, where: str) -> None:
    if not isinstance(document, dict) or document.get("format") == _FORMAT:
        return
    found = show(document["format"]) if "format" in document else "unknown"
    raise EstateError(
        where,
        f"is of format {found}, and version {VERSION} reads format {_FORMAT}; use the version that "
        "made it, or make the bundle again with `tidsram lab`",
    )


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Yield what no lab writes: what a type cannot say."""
    names, floor = [member.name for member in manifest.ladder], manifest.accuracy_floor
    if len(set(names)) < len(names):
        yield "two variants of its ladder share a name"
    accuracies = [member.accuracy for member in manifest.ladder]
    if accuracies != sorted(accuracies, reverse=True):
        yield "its ladder does not have the most accurate variant first"
    for member in manifest.ladder:
        if member.accuracy < floor:
            yield f"{member.name} is in the ladder and below its floor, accuracy {floor:g}"
        if member.precision == "bf16" and member.engine != "openvino":
            yield f"{member.name} is bf16, which {member.engine} does not compute in"
        if member.size and not all(1 <= side <= _MAX_SIDE for side in member.size):
            yield f"{member.name} sees images of {show(list(member.size))} pixels"
    for tensor in (*manifest.inputs, *manifest.outputs):
        sizes_known = all(-1 <= axis <= _MAX_AXIS for axis in tensor.shape)
        if len(tensor.shape) > _MAX_AXES or not sizes_known:
            yield f"{show(tensor.name)} has the shape {show(list(tensor.shape))}"


def _declared(table: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a manifest's table what an estate would not write: that nothing is set."""
    return {key: value for key, value in table.items() if value not in (None, "", [])}


def _line(error: Exception) -> str:
    """Return an error as one printable line of bounded length: it may quote what it refuses."""
    said = "".join(c if c.isprintable() else " " for c in str(error))
    return said if len(said) <= 200 else f"{said[:199]}…"
