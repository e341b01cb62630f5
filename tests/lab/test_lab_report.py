"""report.html of a bundle: all that chooses, nothing that its runs do not carry, safely, alone."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from tidsram.client.answer import Box, Boxes, Label, Mask, Tensors
from tidsram.estate.bundle import LeftOut, Manifest, Member, Score, Source, Tensor
from tidsram.estate.types import Answer, Question
from tidsram.lab.drawing import TimeAxis, around, show_accuracy
from tidsram.lab.report import SAMPLES_SHOWN, Page, Sample, VariantRow, render
from tidsram.units import MS

HOSTILE = "<script>alert('x')</script>\"&"
VOID = {"meta", "br"}
ENOUGH, TOO_FEW = 4700, 300  # runs for p99.9, and not even for p99


class Parsed(HTMLParser):
    """A page taken apart: its text, its tags with attributes, and whether all were closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def runs(many: int, usual_ns: int) -> tuple[int, ...]:
    """Return times around `usual_ns`, no two alike, the longest in the middle."""
    rng = np.random.default_rng(many)
    return tuple((usual_ns * (1 + 0.2 * rng.random(many))).astype(int).tolist())


def row(name: str, accuracy: float, usual_ns: int, many: int = ENOUGH, **other) -> VariantRow:
    score = Score(against="original", metric="box F1", value=accuracy, samples=40)
    given = {
        "precision": "int8",
        "engine": "onnxruntime",
        "bytes": 4 << 20,
        "kept": True,
        "size": (320, 320),
        "accuracy": accuracy,
        "scores": (score,),
        "times": {"alone": runs(many, usual_ns), "neighbour busy": runs(many, usual_ns + MS)},
    }
    return VariantRow(name=name, **(given | other))


def a_page(*rows: VariantRow, **other) -> Page:
    manifest = Manifest(
        name="obstacle",
        question=Question(kind="image", size=(64, 48), layout="nhwc"),
        answer=Answer(kind="boxes", decoder="rows", labels=("person", "car")),
        inputs=(Tensor(name="frame", datatype="UINT8", shape=(1, 48, 64, 3)),),
        outputs=(Tensor(name="boxes", datatype="FP32", shape=(1, 100, 6)),),
        ladder=(Member(name="fp32", sha256="a" * 64, bytes=1),),
        source=Source(file="net.onnx", sha256="b" * 64),
        data_sha256="c" * 64,
        licence="Apache-2.0",
    )
    given = {"manifest": manifest, "digest": "d" * 64, "date": "2026-11-24", "budget_ns": 20 * MS}
    return Page(rows=rows, **(given | other))


SLOW, FAST = row("fp32", 1.0, 30 * MS), row("small", 0.91, 5 * MS)
GOOD = row("int8", 0.9789, 12 * MS)
OUT = row("blind", 0.0, 4 * MS, kept=False, why="finds nothing in 40 samples")
A_BOX = Boxes((Box(3, 4, 20, 30, "person", 0.9),))
PICTURE = Image.new("RGB", (64, 48), "grey")


def sample(original, variant, image=PICTURE, name="0001.jpg") -> Sample:
    return Sample(name=name, image=image, original=original, variant=variant)


FULL = a_page(
    SLOW,
    GOOD,
    FAST,
    OUT,
    samples=(sample(A_BOX, Boxes(())), sample(A_BOX, A_BOX)),
    conditions={"processor": "a small one", "kernel": "Linux 6.18"},
    shown="small",
)


def test_the_most_accurate_variant_that_is_surely_inside_the_budget_is_the_answer():
    parsed = Parsed(render(FULL))

    assert (
        "Inside 20 ms at the 99th percentile: int8 (box F1 0.978 against the original)."
        in parsed.text
    )
    assert "Too slow: fp32." in parsed.text


@pytest.mark.parametrize(
    ("rows", "words", "kind"),
    [
        ((SLOW,), "No variant is inside 20 ms", "contradicted"),
        ((row("few", 1.0, MS, TOO_FEW),), "Not measured enough to say", "not-enough-evidence"),
        ((replace(GOOD, times={}),), "Not measured enough to say", "not-enough-evidence"),
        ((), "No variant is inside 20 ms", "contradicted"),
    ],
)
def test_no_variant_is_praised_without_proof(rows, words, kind):
    parsed = Parsed(render(a_page(*rows)))

    assert words in parsed.text
    assert ("div", {"class": f"answer {kind}"}) in parsed.tags


def test_a_busy_neighbour_that_breaks_the_budget_breaks_the_verdict():
    loaded = replace(GOOD, times={"alone": runs(ENOUGH, 12 * MS), "busy": runs(ENOUGH, 25 * MS)})

    text = Parsed(render(a_page(loaded))).text

    assert "No variant is inside 20 ms" in text


def test_where_nothing_holds_the_page_says_in_which_condition_something_does():
    loaded = replace(GOOD, times={"alone": runs(ENOUGH, 12 * MS), "busy": runs(ENOUGH, 25 * MS)})

    text = Parsed(render(a_page(loaded))).text

    assert "In the condition “alone” it holds with int8." in text


def test_times_that_no_clock_could_tell_apart_still_make_a_page():
    instant = row("tiny", 1.0, 0, times={"alone": (0,) * ENOUGH})

    assert "tiny" in Parsed(render(a_page(instant))).text


def test_the_stairs_never_step_down_to_a_slower_variant_that_is_worse():
    worse = row("worse", 0.95, 14 * MS)  # the ladder is as it was given: slower than int8

    points = re.search(r'<polyline points="([^"]*)"', render(a_page(SLOW, GOOD, worse, FAST)))

    assert points
    heights = [float(point.partition(",")[2]) for point in points[1].split()]
    assert heights == sorted(heights, reverse=True)  # downwards on the page is less
    assert len(set(heights)) == 3


def test_without_a_budget_the_page_says_how_far_the_ladder_reaches():
    text = Parsed(render(replace(FULL, budget_ns=None))).text

    assert "3 variants, from fp32 (box F1 1.000 against the original) to small" in text
    assert "budget 20 ms" not in text


def test_a_variant_without_enough_runs_shows_no_percentile():
    few = row("few", 0.9, 5 * MS, TOO_FEW)

    html = render(a_page(few))

    ladder, spread = (html.partition(f'id="{name}"')[2] for name in ("ladder", "spread"))
    cells = re.findall(r"<td>(.*?)</td>", ladder.partition("</section>")[0])
    assert "–<small>needs 459 runs</small>" in cells
    assert "–<small>needs 4,603 runs</small>" in cells
    rows = re.findall(r"<td>300</td>(.*?)</tr>", spread)
    assert len(rows) == 2
    for cells_after_runs in rows:
        assert re.match(r"<td>[\d.]+\xa0ms</td><td>–</td><td>–</td>", cells_after_runs)
    assert "99th percentile of its run times" not in html
    assert "95th percentile of its run times" in html


def test_a_variant_is_not_drawn_at_a_percentile_that_it_cannot_claim():
    few = row("few", 0.95, 5 * MS, 3, kept=False, why="too few runs")

    text = Parsed(render(a_page(GOOD, few))).text

    assert "Not drawn, for want of runs or of accuracy: few." in text


def test_everything_left_out_shows_its_reason():
    refused = LeftOut(name="openvino", why="OpenVINO refuses it & says <why>")
    page = replace(FULL, manifest=replace(FULL.manifest, left_out=(refused,)))

    text = Parsed(render(page)).text

    assert OUT.why in text
    assert refused.name in text
    assert refused.why in text
    assert "2 left out" in text


def test_nothing_is_fetched_from_elsewhere_and_nothing_runs():
    parsed = Parsed(render(FULL))

    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
    for _, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/")), address
    css = render(FULL).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in css
    assert "@import" not in css


def test_hostile_names_labels_and_facts_stay_words():
    box = Boxes((Box(1, 1, 9, 9, HOSTILE, 0.5),))
    page = a_page(
        replace(GOOD, name=HOSTILE, engine=HOSTILE, longest_operator=(HOSTILE, 5)),
        replace(OUT, name=HOSTILE + "2", why=HOSTILE),
        samples=(sample(box, Tensors({HOSTILE: np.zeros(2)}), name=HOSTILE),),
        conditions={HOSTILE: HOSTILE},
        shown=HOSTILE,
    )
    page = replace(
        page,
        manifest=replace(
            page.manifest,
            name="obstacle",
            answer=Answer(kind="boxes", labels=(HOSTILE,)),
            licence=HOSTILE,
            source=Source(file=HOSTILE, sha256="b" * 64),
            left_out=(LeftOut(name="x", why=HOSTILE),),
            made_with={"onnx": HOSTILE},
        ),
    )
    busy = {HOSTILE: GOOD.times["alone"]}
    page = replace(page, rows=(replace(page.rows[0], times=busy), page.rows[1]))

    html = render(page)

    parsed = Parsed(html)
    assert "<script" not in html
    assert parsed.text.count(HOSTILE) >= 12


def test_an_answer_stands_on_the_picture_beside_the_original_s():
    html = render(FULL)

    parsed = Parsed(html)
    pictures = [a for tag, a in parsed.tags if tag == "image"]
    assert len(pictures) == 2  # each picture once, both answers use it
    assert len([a for tag, a in parsed.tags if tag == "use"]) == 2
    assert parsed.text.count("person 0.90") == 3  # each box that was found has its words
    assert "1 found: person 1" in parsed.text
    assert "nothing found" in parsed.text


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Mask(np.eye(4, dtype=bool), (0, 0, 64, 48)), "25.0% of the pixels marked"),
        (Label("glioma", 0.934), "glioma 0.93"),
        (Tensors({"prob": np.array([[0.25]])}), "prob 0.25"),
        (Tensors({"state": np.zeros((2, 1, 128))}), "state 2 × 1 × 128"),
    ],
)
def test_each_kind_of_answer_is_drawn_or_said(reading, words):
    page = a_page(GOOD, samples=(sample(reading, reading), sample(reading, reading, image=None)))

    assert Parsed(render(page)).text.count(words) == 4


def test_a_mask_is_laid_over_the_part_it_covers():
    mask = Mask(np.ones((2, 2), bool), (8, 4, 40, 36))

    tags = Parsed(render(a_page(GOOD, samples=(sample(mask, mask),)))).tags

    laid = [a for tag, a in tags if tag == "image" and "data:image/png" in (a["href"] or "")]
    assert len(laid) == 2
    places = [(a["x"], a["y"], a["width"], a["height"]) for a in laid]
    assert places == [("8.0", "4.0", "32.0", "32.0")] * 2


def test_more_samples_than_are_looked_at_are_not_shown():
    page = a_page(GOOD, samples=(sample(A_BOX, A_BOX),) * (SAMPLES_SHOWN + 3))

    pictures = [tag for tag, _ in Parsed(render(page)).tags if tag == "image"]

    assert len(pictures) == SAMPLES_SHOWN


def test_every_drawing_says_in_words_what_it_shows():
    tags = Parsed(render(FULL)).tags

    drawings = [attributes for tag, attributes in tags if tag == "svg"]
    assert drawings
    for attributes in drawings:
        assert attributes.get("aria-hidden") == "true" or attributes["aria-label"]


def test_the_same_facts_give_the_same_page():
    page = render(FULL)

    assert page.encode() == render(FULL).encode()
    assert "</html>" in page


@given(st.floats(0, 1))
def test_accuracy_is_never_rounded_up(accuracy):
    shown = float(show_accuracy(accuracy))

    assert shown <= accuracy + 1e-8
    assert accuracy - shown < 0.001 + 1e-8


@given(st.lists(st.integers(0, 3600 * 10**9), min_size=1, max_size=9))
def test_an_axis_of_time_keeps_order_and_holds_all_times(times):
    low, high = around(times)
    axis = TimeAxis(low_ns=low, high_ns=high, left=40, right=400)

    places = [axis.at(ns) for ns in sorted(times)]

    assert all(a <= b for a, b in pairwise(places))
    assert places[0] > 40 or min(times) == 0
    assert places[-1] < 400
    assert all(low <= ns <= high for ns in axis.ticks())
