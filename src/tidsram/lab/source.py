"""Read the model that was brought: one file, or one with its weights in files beside it.

Here, and nowhere else, another file is opened because a model names it; what comes out is one
self-contained file, screened as a node would screen it. Nothing is run.
"""

import hashlib
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tidsram.engine.inspect import DATATYPE_OF
from tidsram.engine.screen import (
    MODEL_BYTES_MAX,
    Refuse,
    check_contents,
    check_tensor_bytes,
    parse,
    quoted,
)
from tidsram.errors import ModelRefused
from tidsram.lab.optimise import written
from tidsram.lab.quantise import quantises
from tidsram.units import show_size

if TYPE_CHECKING:
    import onnx

_STANDARD: Final = ("", "ai.onnx")
# Types of which a byte holds several, and the bits of each.
_PACKED: Final = (("UINT4", 4), ("INT4", 4), ("FLOAT4", 4), ("UINT2", 2), ("INT2", 2))
# O_NONBLOCK: opening a pipe must not wait for its writer.
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BESIDE: Final = (
    "Save it as one file where it was exported: "
    "onnx.save_model(onnx.load('model.onnx'), 'one-file.onnx', save_as_external_data=False)"
)
_COPY_AGAIN: Final = "Copy or export the model again, with all its files"


class Port(Struct, frozen=True, kw_only=True):
    """An input or output as the file declares it; an open axis is its name, or "?"."""

    name: str
    datatype: str  # the Open Inference Protocol's, or what it is instead of a plain tensor
    shape: tuple[int | str, ...]


class Facts(Struct, frozen=True, kw_only=True):
    """What a model file says about itself; `operators` counts those of nested graphs too."""

    ir_version: int
    opset: int
    operators: dict[str, int]
    nodes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parameters: int
    bytes: int  # with those of the files beside it
    external: tuple[str, ...]  # the files beside it, in the order in which it names them
    quantised: bool


class SourceModel(Struct, frozen=True, kw_only=True):
    """The model that all variants are made from: `data` is one file that needs no other.

    `sha256` is of the bytes of the file as given, followed by those of the files beside it.
    """

    file: str  # its name, no directory
    data: bytes
    sha256: str
    facts: Facts


def read_source(path: Path) -> SourceModel:
    """Read, gather and screen a model, or raise ModelRefused with the line that fixes it."""
    try:
        return _read_source(path)
    except Refuse as refusal:
        raise ModelRefused(str(path), refusal.problem, f"{refusal.remedy}.") from None


def _read_source(path: Path) -> SourceModel:
    given = _read_model(path)
    proto = parse(given)
    _check_text(proto)
    beside = _gather(proto, path.parent, len(given))
    data = written(proto) if beside else given
    if len(data) > MODEL_BYTES_MAX:
        raise _too_large("with the files beside it, it")
    check_contents(proto)
    digest = hashlib.sha256(given)
    for content in beside.values():
        digest.update(content)
    size = len(given) + sum(map(len, beside.values()))
    facts = _facts(proto, size, tuple(beside))
    return SourceModel(file=path.name, data=data, sha256=digest.hexdigest(), facts=facts)


# The file itself


def _read_model(path: Path) -> bytes:
    try:
        return _read(path, None)
    except FileNotFoundError:
        raise Refuse("there is no such file", "Put it there, or change its path") from None
    except IsADirectoryError:
        raise Refuse("it is a directory", "Name the .onnx file in it") from None
    except OSError as error:
        if path.is_symlink():
            remedy = f"Name the file that it leads to: {path.resolve()}"
            raise Refuse("it is a symbolic link, which may change its file", remedy) from None
        problem = f"it cannot be read ({error.strerror or error})"
        raise Refuse(problem, "Let this user read it, or change its path") from None


def _read(path: Path | str, folder: int | None) -> bytes:
    """Return a regular file's bytes; `folder` is where a bare name is looked up.

    Raises OSError for what cannot be opened, a symbolic link among it.
    """
    number = os.open(path, _OPEN, dir_fd=folder)
    with os.fdopen(number, "rb") as file:
        found = os.fstat(number)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError
        if not stat.S_ISREG(found.st_mode):
            raise Refuse(
                "it is a device or a pipe, not a file" if folder is None else _no_file(path),
                "Save the model as a plain file",
            )
        if folder is not None and found.st_nlink > 1:
            raise Refuse(
                f"{_named(path)} is hard-linked from elsewhere, so it may be any file here",
                "Copy it, and put the copy in its place",
            )
        if found.st_size > MODEL_BYTES_MAX:
            raise _too_large("it" if folder is None else _named(path))
        return file.read()


def _too_large(what: str) -> Refuse:
    return Refuse(
        f"{what} has more than the {show_size(MODEL_BYTES_MAX + 1)} that a model may have",
        "Export a smaller model, or split it into two decisions",
    )


# The files beside it


def _gather(proto: "onnx.ModelProto", directory: Path, size: int) -> dict[str, bytes]:
    """Write what other files hold into the model; return those files by name."""
    tensors = [t for t in _messages(proto, "TensorProto") if t.external_data or t.data_location]
    files: dict[str, bytes] = {}
    if not tensors:
        return files
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for tensor in tensors:
            where = {entry.key: entry.value for entry in tensor.external_data}
            name = where.get("location", "")
            if name not in files:
                files[name] = _read_beside(name, folder)
            start, end = _place(where, len(files[name]), tensor)
            size += end - start  # counted for each use: many tensors may name the same bytes
            if max(size, sum(map(len, files.values()))) > MODEL_BYTES_MAX:
                raise _too_large("with the files beside it, it")
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = files[name][start:end]
    finally:
        os.close(folder)
    return files


def _read_beside(name: str, folder: int) -> bytes:
    if name in ("", ".", "..") or "\0" in name or name != Path(name).name:
        raise Refuse(
            f"its weights are said to be in {quoted(name)}, which is no plain name of a file "
            "beside it",
            _BESIDE,
        )
    try:
        return _read(name, folder)
    except FileNotFoundError:
        raise Refuse(f"{_named(name)} is not there", "Put it beside the model") from None
    except IsADirectoryError:
        raise Refuse(_no_file(name), _COPY_AGAIN) from None
    except OSError as error:
        problem = f"{_named(name)} cannot be read ({error.strerror or error})"
        remedy = "Put the file itself there, no link, and let this user read it"
        raise Refuse(problem, remedy) from None


def _place(where: dict[str, str], size: int, tensor: "onnx.TensorProto") -> tuple[int, int]:
    """Return where in a file of `size` bytes a tensor is, which must be just what it needs."""
    what = f"its constant {quoted(tensor.name)}"
    try:
        start = int(where.get("offset") or 0)
        length = int(where["length"]) if where.get("length") else size - start
    except ValueError:
        raise Refuse(f"{what} has a place in its file that is no number", _COPY_AGAIN) from None
    if start < 0 or length < 0 or start + length > size:
        problem = f"{what} lies outside its file: bytes {start} to {start + length} of {size}"
        raise Refuse(problem, _COPY_AGAIN)
    check_tensor_bytes(what, tensor.dims, tensor.data_type)
    if length != _bytes_needed(tensor):
        problem = f"{what} {list(tensor.dims)} has {length} bytes in its file, which do not fit it"
        raise Refuse(problem, _COPY_AGAIN)
    return start, start + length


def _bytes_needed(tensor: "onnx.TensorProto") -> int:
    import onnx

    names = {number: name for name, number in onnx.TensorProto.DataType.items()}
    name = names.get(tensor.data_type, "")
    bits = next((bits for part, bits in _PACKED if name.startswith(part)), 0)
    if not bits:
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except KeyError:
            problem = f"its constant {quoted(tensor.name)} has an unknown type"
            raise Refuse(problem, "Export it with float32 weights") from None
        bits = 8 * int(dtype.itemsize)
    count: int = math.prod(tensor.dims)
    return -(-count * bits // 8)


def _named(name: Path | str) -> str:
    return f"its file {quoted(str(name))}"


def _no_file(name: Path | str) -> str:
    return f"{_named(name)} is a directory, a device or a pipe, not a file"


# What it says about itself


def _facts(proto: "onnx.ModelProto", size: int, external: tuple[str, ...]) -> Facts:
    nodes = Counter(_operator(node) for node in _messages(proto, "NodeProto"))
    weights = {tensor.name for tensor in proto.graph.initializer}
    opsets = [opset.version for opset in proto.opset_import if opset.domain in _STANDARD]
    return Facts(
        ir_version=proto.ir_version,
        opset=max(opsets, default=0),
        operators=dict(sorted(nodes.items())),
        nodes=nodes.total(),
        inputs=_ports([value for value in proto.graph.input if value.name not in weights]),
        outputs=_ports(proto.graph.output),
        parameters=sum(math.prod(t.dims) for t in _messages(proto, "TensorProto")),
        bytes=size,
        external=external,
        quantised=quantises(nodes),
    )


def _operator(node: "onnx.NodeProto") -> str:
    return node.op_type if node.domain in _STANDARD else f"{node.domain}:{node.op_type}"


def _ports(values: "Sequence[onnx.ValueInfoProto]") -> tuple[Port, ...]:
    return tuple(_port(value) for value in values)


def _port(value: "onnx.ValueInfoProto") -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        what = (kind or "unknown").removesuffix("_type")
        return Port(name=value.name, datatype=what, shape=())
    tensor = value.type.tensor_type
    shape = tuple(_axis(dim) for dim in tensor.shape.dim)
    sizes = [size for size in shape if isinstance(size, int)]
    check_tensor_bytes(quoted(value.name), sizes, tensor.elem_type)
    datatype = DATATYPE_OF.get(tensor.elem_type, f"number {tensor.elem_type}")
    return Port(name=value.name, datatype=datatype, shape=shape)


def _axis(dim: "onnx.TensorShapeProto.Dimension") -> int | str:
    # Some exporters write 0 or −1 for an open size.
    return dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?"


def _check_text(proto: "onnx.ModelProto") -> None:
    """Refuse text that is not UTF-8: protobuf gives it as bytes, which nobody expects."""
    for message in _messages(proto):
        for field, value in message.ListFields():
            if field.type != field.TYPE_STRING or isinstance(value, str):
                continue
            for text in [value] if isinstance(value, bytes) else value:
                if isinstance(text, bytes):
                    raise Refuse(f"its text {quoted(text)} is not UTF-8", _COPY_AGAIN)


def _messages(root: Any, kind: str = "") -> Iterator[Any]:  # noqa: ANN401 - protobuf's own types
    """Give every message of a kind, or of any, wherever in the model it hides."""
    from google.protobuf.message import Message  # type: ignore[import-untyped]

    pending = [root]
    while pending:
        part = pending.pop()
        if kind in ("", part.DESCRIPTOR.name):
            yield part
        for field, value in reversed(part.ListFields()):
            if field.message_type is not None:
                pending += [value] if isinstance(value, Message) else reversed(value)
