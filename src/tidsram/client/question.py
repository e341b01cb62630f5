"""From what the asker holds (images) to what the model takes (tensors), as the estate declares it.

Runs on the asker's side and inside its budget, so it avoids passes over the pixels: one resize,
then one multiplication and one addition for each plane. It reads no files and asks no node.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidsram.errors import QuestionError
from tidsram.estate.types import Question

Array = NDArray[np.generic]


def tensors(question: Question, images: Sequence[Image.Image]) -> list[Array]:
    """Return the model's inputs, in its own order, for one question about `images`."""
    if len(images) != question.images:
        raise QuestionError(
            f"this decision's question takes {_count(question.images)}, {len(images)} came; "
            f"give {question.images}, in the order the estate's [question] table means"
        )
    planes = [plane for image in images for plane in _planes(question, image)]
    width, height = planes[0].size
    if any(plane.size != (width, height) for plane in planes):
        raise QuestionError(
            "the images of one question differ in size; give images of one size, "
            "or declare `size = [width, height]` in the question's table"
        )
    return [_stack(question, planes, width, height)]


def _planes(question: Question, image: Image.Image) -> list[Image.Image]:
    """Split one image into the single-channel images the model sees, resized, in its order."""
    image = image.convert("L" if question.color == "gray" else "RGB")
    if question.size is not None and image.size != question.size:
        image = image.resize(question.size, Image.Resampling.BILINEAR)
    planes = list(image.split())
    return planes[::-1] if question.color == "bgr" else planes


def _stack(
    question: Question, planes: Sequence[Image.Image], width: int, height: int
) -> NDArray[np.float32]:
    means = _for_each_channel(question.mean, len(planes), question.images)
    stds = _for_each_channel(question.std, len(planes), question.images)
    channel_first = question.layout == "nchw"
    shape = (1, len(planes), height, width) if channel_first else (1, height, width, len(planes))
    tensor = np.empty(shape, np.float32)
    for channel, (plane, mean, std) in enumerate(zip(planes, means, stds, strict=True)):
        target = tensor[0, channel] if channel_first else tensor[0, :, :, channel]
        # (x − mean) / std in two passes over one plane: an eighth of the time of the plain formula.
        np.multiply(np.asarray(plane), np.float32(1 / std), out=target, casting="unsafe")
        target -= np.float32(mean / std)
    return tensor


def _for_each_channel(values: tuple[float, ...], channels: int, images: int) -> tuple[float, ...]:
    """Repeat one number for all channels, or each image's numbers for every image."""
    return values * (channels if len(values) == 1 else images)


def _count(images: int) -> str:
    return "one image" if images == 1 else f"{images} images"
