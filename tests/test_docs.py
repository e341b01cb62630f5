"""The pages say what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tidsram.estate.load import parse_estate
from tidsram.outcome import TABLE, Reason
from tidsram.serve.metrics import SERIES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_tour_points_at_the_lines_it_names():
    """Every link with a line goes to the definition it is named after."""
    done = subprocess.run(
        [sys.executable, "docs/relink.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Every relative link of every page names a file that exists."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())

    missing = [target for target in targets if not (page.parent / target).exists()]

    assert missing == []


def test_the_readme_names_its_two_commands():
    """A newcomer needs `make demo` and `make test`, and no others."""
    assert "make demo" in README
    assert "make test" in README


def test_the_readmes_estate_is_valid():
    """The estate that the README shows is one that `check` takes."""
    (shown,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)

    estate = parse_estate(shown, "README.md")

    assert len(shown.strip().splitlines()) <= 12
    assert estate.decisions


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason])
def test_every_reason_is_documented_with_its_status(reason):
    """The reference has a row for each reason, with the status an asker sees."""
    assert re.search(rf"`{reason}`.*\b{TABLE[reason].http}\b", REFERENCE)


@pytest.mark.parametrize("stage", [series for series in SERIES if series != "gap"])
def test_every_stage_is_documented(stage):
    """The reference says what each stage's time is."""
    assert f"`{stage}`" in REFERENCE


def test_every_metric_is_documented():
    """Each metric that the node renders has its line in the reference."""
    source = (ROOT / "src" / "tidsram" / "serve" / "metrics.py").read_text()
    for metric in set(re.findall(r"# TYPE (\w+) ", source)):
        assert f"`{metric}`" in REFERENCE
