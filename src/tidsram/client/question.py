"""From what the asker holds (images) to what the model takes (tensors), as the estate declares it.

Runs on the asker's side and inside its budget, so it avoids passes over the pixels: one resize,
then one multiplication and one addition for each plane, and none where the model takes the raw
frame. It reads no files and asks no node.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidsram.errors import QuestionError
from tidsram.estate.types import Question

Array = NDArray[np.generic]
Size = tuple[int, int]  # width, height
GROUND = 114  # the grey around a letterboxed image, as detectors are trained


def tensors(
    question: Question, images: Sequence[Image.Image], datatype: str = "FP32"
) -> list[Array]:
    """Return the model's inputs, in its own order, for one question about `images`.

    `datatype` is what the model takes. UINT8 is the raw frame: the pixels as they are.
    """
    if len(images) != question.images:
        raise QuestionError(
            f"this decision's question takes {_count(question.images)}, {len(images)} came; "
            f"give {question.images}, in the order the estate's [question] table means"
        )
    fitted = [_fitted(question, image) for image in images]
    width, height = fitted[0].size
    if any(image.size != (width, height) for image in fitted):
        raise QuestionError(
            "the images of one question differ in size; give images of one size, "
            "or declare `size = [width, height]` in the question's table"
        )
    if datatype == "UINT8" and not any(question.mean) and set(question.std) == {1.0}:
        return [_raw(question, fitted)]
    planes = [plane for image in fitted for plane in _planes(question, image)]
    return [_stack(question, planes, width, height)]


def placed(size: Size, image_size: Size, fit: Literal["stretch", "letterbox"]) -> tuple[Size, Size]:
    """Return where in a frame of `size` the whole image lies: its width and height, left and top.

    A letterboxed image keeps its shape and lies in the middle, to the pixel.
    """
    if fit == "stretch":
        return size, (0, 0)
    scale = min(side / given for side, given in zip(size, image_size, strict=True))
    width, height = (max(1, round(given * scale)) for given in image_size)
    return (width, height), ((size[0] - width) // 2, (size[1] - height) // 2)


def _fitted(question: Question, image: Image.Image) -> Image.Image:
    """Bring one image to the colours and the size the model sees."""
    mode = "L" if question.color == "gray" else "RGB"
    if image.mode != mode:  # else it would be copied
        image = image.convert(mode)
    if question.size is None or image.size == question.size:
        return image
    size, place = placed(question.size, image.size, question.fit)
    image = image.resize(size, Image.Resampling.BILINEAR)
    if size == question.size:
        return image
    frame = Image.new(mode, question.size, GROUND if mode == "L" else (GROUND,) * 3)
    frame.paste(image, place)
    return frame


def _planes(question: Question, image: Image.Image) -> list[Image.Image]:
    """Split one image into the single-channel images the model sees, in its order."""
    planes = list(image.split())
    return planes[::-1] if question.color == "bgr" else planes


def _raw(question: Question, images: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Return the pixels as they lie in memory; several images are stacked along the channels."""
    frames = [np.atleast_3d(np.asarray(image)) for image in images]
    if question.color == "bgr":
        frames = [frame[:, :, ::-1] for frame in frames]
    frame = frames[0] if len(frames) == 1 else np.concatenate(frames, axis=2)
    if question.layout == "nchw":
        frame = frame.transpose(2, 0, 1)
    return np.ascontiguousarray(frame[np.newaxis])


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
