"""`tidsram rollback`: serve a decision by the version before, while the node runs."""

from pathlib import Path

import msgspec

from tidsram.cli.deploy import ask
from tidsram.cli.measuring import console
from tidsram.serve.admin import Rollback


def run(*, decision: str, file: Path, site: str | None, as_json: bool) -> int:
    """Go back by one version, or end a trial; 0 when that is done."""
    done = ask(Rollback(decision=decision), file, site)
    if as_json:
        print(msgspec.json.encode(done).decode())
    else:
        console().print(done.told)
    return 0
