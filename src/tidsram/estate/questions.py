"""Read how a decision is asked and answered: its question's table and its answer's.

The same rules hold for an estate's tables and for those in a bundle's manifest.
"""

from typing import Literal

from tidsram.estate import values
from tidsram.estate.tables import Table
from tidsram.estate.types import Answer, Question

MAX_LABELS = 10_000

_QUESTION_KEYS = ("kind", "size", "fit", "color", "mean", "std", "layout", "images")
_ANSWER_KEYS = ("kind", "decoder", "threshold", "labels")
_DECODED_KINDS = {"nanodet": ("boxes",), "defect-grid": ("boxes",), "rows": ("boxes", "class")}


def read_question(decision: Table) -> Question | None:
    """Return how the asker's side makes the model's input; None where nothing says so."""
    table = decision.table("question", "a question", _QUESTION_KEYS)
    if table is None:
        return None
    color: Literal["rgb", "bgr", "gray"]
    color = table.get("color", values.choice("rgb", "bgr", "gray"), "rgb")
    channels = 1 if color == "gray" else 3
    fit: Literal["stretch", "letterbox"]
    fit = table.get("fit", values.choice("stretch", "letterbox"), "stretch")
    if fit == "letterbox" and "size" not in table:
        table.refuse_value("fit", "has no size to fit; add size = [320, 320], or take it out")
    return Question(
        kind=table.need("kind", values.choice("image"), 'kind = "image"'),
        size=table.get("size", values.size, None),
        fit=fit,
        color=color,
        mean=_per_channel(table, "mean", values.number, 0.0, channels),
        std=_per_channel(table, "std", values.divisor, 1.0, channels),
        layout=table.get("layout", values.choice("nchw", "nhwc"), "nchw"),
        images=table.get("images", values.whole(1, 16), 1),
    )


def _per_channel(
    table: Table, key: str, read: values.Reader[float], default: float, channels: int
) -> tuple[float, ...]:
    unset: tuple[float, ...] = (default,)
    found = table.get(key, values.list_of(read, most=16), unset)
    if len(found) not in (1, channels):
        allowed = "1 number" if channels == 1 else f"1 number or {channels}"
        table.refuse_value(
            key, f"holds {len(found)} numbers; allowed is {allowed}, one a channel of an image"
        )
    return found


def read_answer(decision: Table) -> Answer | None:
    """Return how the asker's side reads the outputs; None where nothing says so."""
    table = decision.table("answer", "an answer", _ANSWER_KEYS)
    if table is None:
        return None
    kinds = values.choice("boxes", "mask", "class", "tensor")
    kind = table.need("kind", kinds, 'kind = "boxes"')
    return Answer(
        kind=kind,
        decoder=_decoder(table, kind),
        threshold=table.get("threshold", values.score, 0.5),
        labels=table.get("labels", values.list_of(values.text, most=MAX_LABELS), ()),
    )


def _decoder(table: Table, kind: str) -> Literal["", "nanodet", "defect-grid", "rows"]:
    decoder: Literal["", "nanodet", "defect-grid", "rows"]
    decoder = table.get("decoder", values.choice(*_DECODED_KINDS), "")
    if decoder and kind not in _DECODED_KINDS[decoder]:
        made = " or ".join(f'"{made}"' for made in _DECODED_KINDS[decoder])
        table.refuse_value("decoder", f'makes kind = {made}, not "{kind}"')
    if kind == "boxes" and not decoder:
        words = ", ".join(f'"{word}"' for word in _DECODED_KINDS)
        table.refuse_value("kind", f"needs a decoder beside it; allowed is decoder = {words}")
    return decoder
