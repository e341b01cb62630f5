"""The page and the pictures, made from a made-up tale."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tales import tale

from tidsram.client.answer import Box, Boxes, Label, Mask
from tidsram.demo import charts, pictures, report
from tidsram.demo.material import load_material
from tidsram.estate.load import load_estate
from tidsram.outcome import Outcome, Reason

DEMO = Path(__file__).parents[2] / "examples" / "demo"
ESTATE = load_estate(DEMO / "tidsram.toml")


class Elements(HTMLParser):
    """Collects every element's attributes."""

    def __init__(self, page):
        super().__init__()
        self.attributes, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_data(self, data):
        self.text.append(data)


def made(outcome, reason, out):
    told = tale(ESTATE.decisions, outcome=outcome, reason=reason)
    materials = {name: load_material(d, DEMO) for name, d in ESTATE.decisions.items()}
    files = report.leave(told, ESTATE, materials, "a machine", out)
    return files, (out / "report.html").read_text("utf-8")


def test_the_page_is_one_file_that_loads_nothing_from_elsewhere(tmp_path):
    """Look at every address in the page."""
    _, page = made(Outcome.ANSWERED, Reason.NONE, tmp_path)

    loading = [
        value
        for tag, key, value in Elements(page).attributes
        if key in ("src", "href", "xlink:href") and not value.startswith(("data:", "#"))
    ]
    assert loading == []
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_ids_are_unique_so_that_figures_do_not_borrow_from_each_other(tmp_path):
    """Collect all ids and all references to them."""
    _, page = made(Outcome.ANSWERED, Reason.NONE, tmp_path)

    ids = [value for _, key, value in Elements(page).attributes if key == "id"]
    references = re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', page)
    assert len(ids) == len(set(ids))
    assert set(references) <= set(ids)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(Outcome.REJECTED, Reason.OVERLOAD), (Outcome.FAILED, Reason.GATE_LOST)],
)
def test_a_demo_in_which_nothing_was_answered_still_has_its_page(tmp_path, outcome, reason):
    """Leave a tale without a single answer."""
    files, page = made(outcome, reason, tmp_path)

    assert files == []
    assert "not for diagnosis" in page
    assert "0 %" in page


def test_pictures_say_what_they_show(tmp_path):
    """Leave the pictures of a tale with answers."""
    files, page = made(Outcome.ANSWERED, Reason.NONE, tmp_path)

    assert {file.name for file in files} >= {"tissue-field.jpg", "obstacle-0000.jpg"}
    assert all(file.is_file() for file in files)
    assert all(value for _, key, value in Elements(page).attributes if key == "alt")


def test_every_figure_is_wellformed_and_names_its_budget():
    """Parse each figure as XML and look for the words in it."""
    told, decisions = tale(ESTATE.decisions), ESTATE.decisions

    for name, decision in decisions.items():
        own = [one for one in told.quiet if one.decision == name]
        svg = charts.latency(decision, own)
        ElementTree.fromstring(svg)
        assert f"budget {decision.budget_ns // 10**6} ms" in svg
        assert "median 20 ms" in svg


def test_a_box_is_drawn_where_it_is_and_the_original_stays():
    """Draw one box on white and look at the pixels on its edge and far from it."""
    white = Image.new("RGB", (200, 200), "white")

    drawn = pictures.draw(white, Boxes((Box(50, 60, 150, 160, "open", 0.9),)))

    assert drawn.getpixel((50, 110)) != (255, 255, 255)
    assert drawn.getpixel((100, 110)) == (255, 255, 255)
    assert drawn.getpixel((10, 190)) == (255, 255, 255)
    assert white.getcolors() == [(200 * 200, (255, 255, 255))]


def test_a_label_stays_on_the_picture():
    """Draw a box in the upper right corner: its words go below and to the left."""
    white = Image.new("RGB", (200, 200), "white")

    drawn = np.asarray(pictures.draw(white, Boxes((Box(180, 0, 200, 20, "spurious copper", 1),))))

    below = drawn[22:40]
    assert (below[:, :180] < 255).any()


def test_a_mask_tints_its_part_of_the_picture_only():
    """Mark the upper half of the middle."""
    mask = Mask(np.repeat([[True], [False]], 2, axis=1), (50, 50, 150, 150))

    drawn = pictures.draw(Image.new("RGB", (200, 200), "white"), mask)

    assert drawn.getpixel((100, 75)) != (255, 255, 255)
    assert drawn.getpixel((100, 130)) == (255, 255, 255)
    assert drawn.getpixel((20, 75)) == (255, 255, 255)


def test_a_class_is_written_under_the_picture():
    """Draw a class: the picture itself stays as it was."""
    drawn = pictures.draw(Image.new("RGB", (100, 50), "white"), Label("cat", 0.9))

    assert drawn.width == 100
    assert drawn.height > 50
    assert (np.asarray(drawn)[50:] < 255).any()
