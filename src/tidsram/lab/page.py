"""What the pages of lab and plan share: strict templates, one typography, one set of colours.

A page is one file: no script, no font, no picture from elsewhere.
"""

import jinja2

INK, SOFT, FAINT = "#1f252b", "#5d656e", "#d9dde2"
MAIN, OTHER, ALERT = "#2b6ca3", "#b8622c", "#b3261e"


def environment() -> jinja2.Environment:
    """Return an environment that escapes all that is inserted, and refuses what is not given.

    A template's name is its path in the package; page.css.j2 is what every page looks like.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tidsram", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
