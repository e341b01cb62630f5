"""What the demo leaves behind: pictures, every question's outcome, and one page that shows all."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
import msgspec
from PIL import Image

from tidsram import clock
from tidsram.client.answer import Boxes, Mask
from tidsram.demo import charts, pictures, results
from tidsram.demo.askers import Asked
from tidsram.demo.material import CORE, Boards, Chips, Frames, Material
from tidsram.demo.story import FRAMES, VICTIM, Tale
from tidsram.estate.types import Estate
from tidsram.units import MS, show_ns

_QUALITY = 85
_BOARDS_SHOWN = 2
_FRAMES_SHOWN = 2


class Picture(msgspec.Struct, frozen=True):
    """A picture with its answer drawn on it, and what it shows."""

    name: str
    image: Image.Image
    caption: str

    @property
    def source(self) -> str:
        """The picture as a data: address, so that the page is one file."""
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=_QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def leave(
    tale: Tale, estate: Estate, materials: Mapping[str, Material], machine: str, out: Path
) -> list[Path]:
    """Write pictures, page and record to `out`; return the pictures' files."""
    out.mkdir(parents=True, exist_ok=True)
    shown = draw_all(tale, materials)
    written = []
    for picture in shown:
        file = out / f"{picture.name}.jpg"
        pictures.captioned(picture.image, picture.caption).save(file, quality=_QUALITY)
        written.append(file)
    (out / "questions.json").write_bytes(msgspec.json.encode(tale))
    (out / "report.html").write_text(page(tale, estate, shown, machine), "utf-8")
    return written


def draw_all(tale: Tale, materials: Mapping[str, Material]) -> list[Picture]:
    """Draw the quiet time's answers."""
    drawn: list[Picture] = []
    for name, material in materials.items():
        own = [one for one in tale.quiet if one.decision == name and results.reading(one)]
        if isinstance(material, Frames):
            drawn += _frames(material, own)
        elif isinstance(material, Boards):
            drawn += _boards(material, own)
        elif isinstance(material, Chips) and own:
            drawn.append(_field(material, own))
    return drawn


def page(tale: Tale, estate: Estate, shown: Sequence[Picture], machine: str) -> str:
    """Return the page: one self-contained HTML file."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["ms"] = _ms
    environment.filters["percent"] = results.show_share
    template = environment.from_string(
        (files("tidsram.demo") / "report.html.j2").read_text("utf-8")
    )
    by_decision = {
        name: [one for one in tale.quiet if one.decision == name] for name in estate.decisions
    }
    return template.render(
        when=clock.today(),
        machine=machine,
        ready=show_ns(tale.ready_ns),
        decisions=estate.decisions,
        told=tale.results,
        rooms={name: show_ns(room) for name, room in tale.room_ns.items()},
        pictures=shown,
        stages=results.STAGES,
        victim=VICTIM,
        latency={
            name: charts.latency(estate.decisions[name], asked)
            for name, asked in by_decision.items()
        },
        figures=_figures(tale, estate),
    )


def _figures(tale: Tale, estate: Estate) -> dict[str, str]:
    return {
        "stages": charts.stages(tale.results.decisions),
        "burst": charts.burst(estate.decisions, tale.burst, tale.burst_ns, VICTIM, FRAMES),
        "kill": charts.kill(
            estate.decisions, tale.killed, tale.killed_ns, tale.back_ns, VICTIM, FRAMES
        ),
        "cloud": charts.cloud(estate.decisions, tale.cloud),
    }


def _frames(material: Frames, own: Sequence[Asked]) -> list[Picture]:
    """Draw the frames with the most in them, from different parts of the time."""
    drawn = []
    for part in range(_FRAMES_SHOWN):
        some = own[len(own) * part // _FRAMES_SHOWN : len(own) * (part + 1) // _FRAMES_SHOWN]
        if some:
            one = max(some, key=lambda one: len(one.boxes or ()))
            number = one.index % material.count
            caption = f"obstacle: frame {number}, answered after {one.took_ns / MS:.0f} ms"
            image = pictures.draw(material.images(number)[0], Boxes(one.boxes or ()))
            drawn.append(Picture(f"obstacle-{number:04}", image, caption))
    return drawn


def _boards(material: Boards, own: Sequence[Asked]) -> list[Picture]:
    """Draw the boards with the most defects, and what was overlooked on them."""
    most: dict[int, Asked] = {}
    for one in own:
        most.setdefault(one.index % material.count, one)
    ranked = sorted(most, key=lambda number: -len(material.truth[number]))
    drawn = []
    for number in sorted(ranked[:_BOARDS_SHOWN]):
        one, truth = most[number], material.truth[number]
        overlooked = material.overlooked(number, one.boxes or ())
        board = material.images(number)[0].convert("RGB")
        pictures.draw_missed(board, overlooked)
        found = len(truth) - len(overlooked)
        caption = (
            f"inspection: board {material.names[number]}, {found} of {len(truth)} labelled "
            f"defects found, answered after {one.took_ns / MS:.0f} ms"
        )
        image = pictures.draw(board, Boxes(one.boxes or ()))
        drawn.append(Picture(f"inspection-{material.names[number]}", image, caption))
    return drawn


def _field(material: Chips, own: Sequence[Asked]) -> Picture:
    """Put the chips' masks back together on the field; cross out what nobody answered."""
    whole = Image.new("1", (material.columns * CORE, material.rows * CORE))
    answered = set()
    for one in own:
        reading = results.reading(one)
        if isinstance(reading, Mask):
            whole.paste(Image.fromarray(reading.pixels), material.corner(one.index))
            answered.add(one.index % material.count)
    mask = pictures.flags(whole.crop((0, 0, *material.field.size)))
    image = pictures.draw_mask(material.field, mask)
    open_chips = [material.corner(i) for i in range(material.count) if i not in answered]
    image = pictures.veiled(image, open_chips, CORE)
    caption = (
        f"tissue: white blood cells in a smear, {len(answered)} of {material.count} chips "
        "answered (the others are pale); not for diagnosis"
    )
    return Picture("tissue-field", image, caption)


def _ms(us: int | None) -> str:
    """Show milliseconds with three digits: a table has room for them."""
    if us is None:
        return "–"
    digits = 2 if us < 10_000 else 1 if us < 100_000 else 0
    return f"{us / 1000:.{digits}f}"
