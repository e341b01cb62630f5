"""Point the tour's links at the lines where their names are defined: `make docs`.

With `--check`, change nothing and exit 1 when a link is off.
"""

import re
import sys
from pathlib import Path

_LINK = re.compile(r"\[`([\w.]+)`\]\((\.\./src/[\w/]+\.py)#L\d+\)")


def relinked(page: Path) -> str:
    """Return the page's text with every link on its line; raises SystemExit for a lost name."""

    def point(match: re.Match[str]) -> str:
        name, target = match[1], match[2]
        return f"[`{name}`]({target}#L{line_of(page.parent / target, name)})"

    return _LINK.sub(point, page.read_text())


def line_of(source: Path, name: str) -> int:
    """Return the line that defines `name`, or `Class.name`, in a source file."""
    lines = source.read_text().splitlines()
    first = 0
    for part in name.split("."):
        pattern = re.compile(rf"\s*(async def|def|class)\s+{part}\b|{part}(: [^=]+)? =")
        found = [i for i, line in enumerate(lines) if i >= first and pattern.match(line)]
        if not found:
            raise SystemExit(f"{source.name} defines no {name!r}: correct the link's name")
        first = found[0]
    return first + 1


def main() -> None:
    """Relink every page of the folder, or check them."""
    check = "--check" in sys.argv
    for page in sorted(Path(__file__).parent.glob("*.md")):
        text = relinked(page)
        if text == page.read_text():
            continue
        if check:
            raise SystemExit(f"{page.name} has links off their lines: run `make docs`")
        page.write_text(text)


if __name__ == "__main__":
    main()
