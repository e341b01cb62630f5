"""Build a model that takes the raw frame and gives the finished answer.

What the asker's side would do before and after the run, as the decision's tables say it, becomes
part of the graph. Nothing is run here, and the model's own operators stay as they are.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from tidsram.client.question import Size
from tidsram.engine.inspect import ELEMENT_OF, fix_model
from tidsram.engine.screen import Refuse, quoted
from tidsram.errors import ModelRefused
from tidsram.estate.types import Answer, Question
from tidsram.lab.fuse_answer import OUTPUT_OF, add_answer
from tidsram.lab.fuse_graph import FLOAT, PREFIX, UINT8, Graph
from tidsram.lab.fuse_outputs import Output
from tidsram.lab.fuse_question import FRAME, Placing, add_question, channels_of, place
from tidsram.protocol.tensors import ModelSpec, TensorSpec

if TYPE_CHECKING:
    import onnx

_OPSET_MIN: Final = 13  # from here on the operators that are added mean what they mean today
_OPSET_RAISED: Final = 17
_FORMAT_MIN: Final = 8  # of ONNX itself, for that opset
_MOVED: Final = "model/"  # before those of the model's names that are taken


class Fused(Struct, frozen=True):
    """A model with its tables built in, and the tables by which it is asked and read now."""

    data: bytes
    question: Question | None
    answer: Answer | None


def fuse(
    model: bytes,
    name: str,
    question: Question | None,
    answer: Answer | None,
    frame: Size | None = None,
) -> Fused:
    """Build the question's and the answer's table into `model`, or raise ModelRefused.

    `frame` is the size of the raw frame; None: the size that the model sees. Without a question
    the inputs stay as they are, without an answer the outputs.
    """
    data, spec = fix_model(model, name)
    try:
        return _fuse(data, spec, question, answer, frame)
    except Refuse as refusal:
        raise ModelRefused(name, refusal.problem, f"{refusal.remedy}.") from None


def _fuse(
    data: bytes,
    spec: ModelSpec,
    question: Question | None,
    answer: Answer | None,
    frame: Size | None,
) -> Fused:
    proto = _parsed(data)
    output = OUTPUT_OF[answer.kind] if answer is not None else ""
    spec = _move_names(proto.graph, spec, {FRAME, output})
    before, behind = (Graph(_opset(proto), PREFIX + part) for part in ("question/", "answer/"))
    placing = None
    if question is not None:
        placing = _placing(question, spec, frame)
        _add_input(proto.graph, before, question, placing, spec.inputs[0])
        question = _question_left(question, placing)
    if answer is not None and output:
        made = add_answer(behind, answer, spec.outputs, placing, proto.graph)
        del proto.graph.output[:]
        proto.graph.output.append(_declared(made))
        answer = replace(answer, decoder="" if answer.kind == "mask" else "rows")
    nodes = [*before.nodes, *proto.graph.node, *behind.nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend([*before.constants, *behind.constants])
    return Fused(proto.SerializeToString(deterministic=True), question, answer)


def _add_input(
    model: "onnx.GraphProto", graph: Graph, question: Question, placing: Placing, was: TensorSpec
) -> None:
    """Let the frame be the model's input, and append what makes of it the input that `was`."""
    made = add_question(graph, question, placing)
    element = ELEMENT_OF[was.datatype]
    graph.publish(made if element == FLOAT else graph.add("Cast", made, to=element), was.name)
    width, height = placing.frame
    del model.input[:]
    model.input.append(_declared(Output(FRAME, UINT8, (1, height, width, channels_of(question)))))


def _question_left(question: Question, placing: Placing) -> Question:
    """Return what is left to do on the asker's side: bring the frame to its size."""
    return Question(
        kind="image",
        size=placing.frame,
        fit=question.fit,
        color="gray" if question.color == "gray" else "rgb",
        layout="nhwc",
        images=question.images,
    )


def _declared(tensor: Output) -> "onnx.ValueInfoProto":
    import onnx

    return onnx.helper.make_tensor_value_info(*tensor)


# Does the question's table fit the model?


def _placing(question: Question, spec: ModelSpec, frame: Size | None) -> Placing:
    """Say where the frame comes to lie in the model's input, or refuse what does not fit."""
    if len(spec.inputs) != 1:
        names = ", ".join(quoted(tensor.name) for tensor in spec.inputs)
        raise Refuse(
            f"it has {len(spec.inputs)} inputs ({names}), and a question of images fills one",
            "Leave the question's table out, or join the inputs in the model",
        )
    (tensor,) = spec.inputs
    what = f"its input {quoted(tensor.name)}"
    if tensor.datatype not in ("FP32", "FP16"):
        raise Refuse(
            f"{what} has type {tensor.datatype}, and (x − mean) / std gives real numbers",
            "Export it with a float32 input, or leave the question's table out",
        )
    size = _image_size(question, tensor, what)
    if question.size not in (None, size):
        raise Refuse(
            f"{what} {list(tensor.shape)} takes images of {size[0]} × {size[1]} and the "
            f"question's table says {question.size[0]} × {question.size[1]}",
            f"Write size = [{size[0]}, {size[1]}], or give a model made for the other size",
        )
    return place(question, frame or size, size)


def _image_size(question: Question, tensor: TensorSpec, what: str) -> Size:
    """Return width and height of the images that the input takes."""
    channels = channels_of(question)
    if len(tensor.shape) == 4:
        batch, *rest = tensor.shape
        found, height, width = rest if question.layout == "nchw" else (rest[2], *rest[:2])
        if batch == 1 and found == channels:
            return width, height
    shape = "[1, {}, height, width]" if question.layout == "nchw" else "[1, height, width, {}]"
    raise Refuse(
        f"{what} is {list(tensor.shape)}, and the question's table makes {shape.format(channels)}: "
        f'images = {question.images}, color = "{question.color}", layout = "{question.layout}"',
        "Change color, images or layout to what the model was made for",
    )


# The model itself


def _parsed(data: bytes) -> "onnx.ModelProto":
    """Return the model at an opset to which the lab's operators may be added, or refuse it."""
    import onnx

    proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    if _opset(proto) < _OPSET_MIN:
        try:
            proto = onnx.version_converter.convert_version(proto, _OPSET_RAISED)
        except (onnx.version_converter.ConvertError, RuntimeError) as error:
            raise Refuse(
                f"it is written in opset {_opset(proto)} and cannot be raised to {_OPSET_RAISED} "
                f"({' '.join(str(error).split())[:200]})",
                f"Export it with opset {_OPSET_RAISED}",
            ) from None
    proto.ir_version = max(proto.ir_version, _FORMAT_MIN)
    return proto


def _opset(proto: "onnx.ModelProto") -> int:
    return next((i.version for i in proto.opset_import if i.domain in ("", "ai.onnx")), 0)


def _move_names(graph: "onnx.GraphProto", spec: ModelSpec, taken: set[str]) -> ModelSpec:
    """Give those of the model's values another name that have one of ours."""

    def moved(name: str) -> str:
        return _MOVED + name if name and (name in taken or name.startswith(PREFIX)) else name

    _rename(graph, moved)
    return ModelSpec(
        tuple(replace(tensor, name=moved(tensor.name)) for tensor in spec.inputs),
        tuple(replace(tensor, name=moved(tensor.name)) for tensor in spec.outputs),
    )


def _rename(graph: "onnx.GraphProto", moved: Callable[[str], str]) -> None:
    """Rename the values of a graph and of the graphs within it, which see the outer ones."""
    for named in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        named.name = moved(named.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = moved(sparse.values.name)
    for node in graph.node:
        node.input[:] = [moved(name) for name in node.input]
        node.output[:] = [moved(name) for name in node.output]
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _rename(inner, moved)
