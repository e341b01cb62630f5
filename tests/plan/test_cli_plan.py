"""`tidsram plan` on a plan that is there: which one it believes, what it says, how it ends."""

import hashlib
import json
import os
import sys

import msgspec
import pytest
import sample_plan
from msgspec.structs import replace

from tidsram.cli import main
from tidsram.estate.plan import Plan

QUESTIONS = 'arrivals = { kind = "periodic", rate = "4/s" }'


def estate_text() -> str:
    """Return an estate file with the names of the hand-made plan."""
    lines = ['[estate]\nname = "norrland"']
    lines.append("[hardware.edge-4]\nlanes = [{ cores = [0] }]")
    for name, (latitude, longitude) in sample_plan.LOCATIONS.items():
        lines.append(f'[site.{name}]\nhardware = "edge-4"\njurisdiction = "SE"')
        lines.append(f"location = [{latitude}, {longitude}]")
    lines += [f"[link.{link.a}.{link.b}]" for link in sample_plan.estate().links]
    for name, (budget_ms, *_, sources, _, _) in sample_plan.DECISIONS.items():
        asked = ", ".join(f"{site} = {askers}" for site, askers in sources.items())
        lines.append(f'[decision.{name}]\nbudget = "{budget_ms} ms"\nbundle = "{name}.onnx"')
        lines.append(f"{QUESTIONS}\nsources = {{ {asked} }}")
    return "\n".join(lines) + "\n"


TEXT = estate_text()


@pytest.fixture
def tidsram(monkeypatch, tmp_path, capsys):
    """Return a function that runs the command in an empty directory: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tidsram", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def planned(tmp_path):
    """Return a function that writes the estate and a plan of it."""

    def write(plan: Plan | None = None) -> None:
        (tmp_path / "tidsram.toml").write_text(TEXT)
        directory = tmp_path / ".tidsram" / "plans"
        directory.mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256(TEXT.encode()).hexdigest()
        whole = replace(plan or sample_plan.plan(), estate_sha256=sha256)
        (directory / "plan.json").write_bytes(msgspec.json.encode(whole))

    return write


def one_line(out: str) -> str:
    """Return what was said without its line breaks."""
    return " ".join(out.split())


def test_a_decision_is_explained_from_the_plan_that_is_there(tidsram, planned):
    """It says which plan it believes; nothing is solved."""
    planned()

    status, out, err = tidsram("plan", "--explain", "weld")

    assert status == 0
    assert err.strip().endswith("plans/plan.json of 2026-11-24")
    assert out.startswith("weld at trollhattan: 8 askers, 160/s in all, critical\n")
    assert "gavle the link to gavle takes 12.9 ms" in one_line(out)


def test_what_is_printed_is_plain_where_no_terminal_reads_it(tidsram, planned):
    """No colours in a file, and no line beyond 100 signs."""
    planned()

    _, out, _ = tidsram("plan", "--explain", "tissue")

    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 100


def test_an_explanation_in_json_has_the_flows_of_the_plan(tidsram, planned):
    """For scripts, as they are in plan.json."""
    planned()

    status, out, _ = tidsram("plan", "--explain", "tissue", "--json")

    told = json.loads(out)
    assert (status, told["standing"], told["decision"]) == (0, "holds", "tissue")
    assert [flow["source"] for flow in told["flows"]] == ["gavle", "umea"]


@pytest.mark.parametrize(
    ("supposed", "status", "said"),
    [
        ("link.gavle.umea down", 0, "link gavle–umea cut: every budget holds"),
        ("node.gavle down", 1, "1 flow cannot be answered"),
        ("site.gotland down", 3, "no decision declares that it survives this"),
        ("site.gavle down, site.umea down", 3, "for these together it promises nothing"),
        ("site.gaevle down", 2, 'no site "gaevle"; did you mean "gavle"?'),
        ("site.gavle down, decision.weld rate 2", 2, "not both at once"),
    ],
)
def test_what_if_ends_as_the_answer_is(tidsram, planned, supposed, status, said):
    """0 yes, 1 no, 2 not a question, 3 nobody can say."""
    planned()

    ended, out, err = tidsram("plan", "--what-if", supposed)

    assert said in one_line(out + err)
    assert ended == status


def test_what_if_in_json_names_every_flow_that_moves(tidsram, planned):
    """With its old and its new place."""
    planned()

    _, out, _ = tidsram("plan", "--what-if", "site.gavle down", "--json")

    (effect,) = json.loads(out)["effects"]
    assert {(one["before"], one["after"]) for one in effect["moved"]} == {
        ("gavle 1", "umea 1"),
        ("gavle 2", "trollhattan 2"),
    }


def test_two_plans_are_compared(tidsram, planned, tmp_path):
    """The older one lies anywhere."""
    planned()
    older = replace(sample_plan.failing_plan(), made="2026-10-01")
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(older))

    status, out, _ = tidsram("plan", "--compare", "old.json")

    assert status == 0
    assert out.startswith("From the plan of 2026-10-01 to that of 2026-11-24, for an estate that")
    assert "weld at trollhattan moves from nowhere to trollhattan 1" in one_line(out)


def test_a_plan_of_another_estate_is_not_compared(tidsram, planned, tmp_path):
    """Nothing in it has the same names."""
    planned()
    foreign = replace(sample_plan.plan(), estate="skane")
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(foreign))

    status, _, err = tidsram("plan", "--compare", "old.json")

    assert status == 2
    assert "old.json: is a plan of estate skane, and tidsram.toml declares norrland" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not a plan ("),
        (b'{"version": 7, "estate": "norrland"}', "is a plan of version 7, and this tidsram reads"),
    ],
    ids=["broken", "newer"],
)
def test_a_plan_that_cannot_be_read_is_bad_input(tidsram, planned, tmp_path, content, said):
    """It is neither believed nor written over in silence."""
    planned()
    file = tmp_path / ".tidsram" / "plans" / "plan.json"
    file.write_bytes(content)

    status, _, err = tidsram("plan", "--explain", "weld")

    assert status == 2
    assert said in err
    assert file.read_bytes() == content


def test_an_unknown_decision_is_bad_input_before_anything_is_solved(tidsram, planned, tmp_path):
    """With the nearest."""
    planned()
    (tmp_path / ".tidsram" / "plans" / "plan.json").unlink()

    status, out, err = tidsram("plan", "--explain", "wled")

    assert (status, out) == (2, "")
    assert 'did you mean "weld"?' in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--explain", "weld", "--what-if", "site.gavle down"), "ask one thing at a time"),
        (("--growth", "2027"), '"2027" is not a quarter; write one like "2027-Q1"'),
        (("--growth", "2020-Q1"), '"2020-Q1" is before'),
    ],
)
def test_a_wrong_option_is_bad_input_before_anything_is_solved(tidsram, planned, arguments, said):
    """A sentence at once."""
    planned()

    status, _, err = tidsram("plan", *arguments)

    assert status == 2
    assert said in err.replace(": is", " is")


def test_a_place_that_cannot_be_written_is_told_before_anything_is_solved(
    tidsram, planned, tmp_path
):
    """An hour of solving would be lost."""
    planned()
    (tmp_path / "file").write_text("")

    status, _, err = tidsram("plan", "--out", "file/plans")

    assert status == 2
    assert "file/plans/plan.json: cannot be written (Not a directory)" in err


def test_measured_facts_that_are_newer_than_the_plan_outdate_it(tidsram, planned, tmp_path):
    """Then it no longer says what is known; planning anew is what fails here."""
    planned()
    facts = tmp_path / ".tidsram" / "measured" / "links"
    facts.mkdir(parents=True)
    fact = facts / "gavle--umea.json"
    fact.write_text(
        '{"a": "gavle", "b": "umea", "date": "2026-11-24", "rtt_ns": [9000000, 9000001]}'
    )
    plan = tmp_path / ".tidsram" / "plans" / "plan.json"

    os.utime(fact, ns=(0, plan.stat().st_mtime_ns - 1))
    _, _, before = tidsram("plan", "--explain", "weld")
    os.utime(fact, ns=(0, plan.stat().st_mtime_ns + 1))
    status, _, after = tidsram("plan", "--explain", "weld")

    assert "planning anew" not in before
    assert "is older than what has been measured; planning anew" in after
    assert status == 2  # nothing is known of the variants' times, and the sentence says what to do
    assert "tidsram profile" in after
