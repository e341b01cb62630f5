"""`tidsram plan` on estates that are wrong: a sentence and a status, never a traceback.

What cannot be read or planned ends with 2; what was understood and cannot hold, with 1.
"""

import sys

import pytest

from tidsram.cli import main
from tidsram.plan.latency import MOST_FLOWS

ESTATE = """
[estate]
name = "north"

[hardware.edge-2]
lanes = [{ cores = [0] }]
yearly_cost = 100

[site.gavle]
hardware = "edge-2"
jurisdiction = "SE"
location = [60.67, 17.14]
nodes = 1
max_nodes = 3

[site.lulea]
hardware = "edge-2"
jurisdiction = "SE"
location = [65.58, 22.15]
nodes = 1
max_nodes = 3

[link.gavle.lulea]

[decision.weld]
budget = "60 ms"
objective = 0.9
sources = ["gavle"]
arrivals = { kind = "poisson", rate = "5/s" }

[decision.weld.variants.int8]
accuracy = 0.9
service.edge-2 = { p50 = "5 ms", p99_9 = "8 ms" }
"""
LINK = "[link.gavle.lulea]\n"
SERVICE = 'service.edge-2 = { p50 = "5 ms", p99_9 = "8 ms" }'
NO_ROOM = "max_nodes = 0\nnodes = 0\n"
ROOM = "nodes = 1\nmax_nodes = 3\n"


def changed(*changes: tuple[str, str]) -> str:
    """Return the good estate with the first of each text replaced by the second."""
    text = ESTATE
    for before, after in changes:
        assert before in text, f"{before} is not in the estate: the case tests nothing"
        text = text.replace(before, after)
    return text


@pytest.fixture
def plan(monkeypatch, tmp_path, capsys):
    """Return a function that plans an estate: status, stdout and stderr on one line each."""
    monkeypatch.chdir(tmp_path)

    def run(text: str | bytes) -> tuple[int, str, str]:
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "tidsram.toml").write_bytes(content)
        monkeypatch.setattr(sys, "argv", ["tidsram", "plan", "--requests", "200"])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, " ".join(out.split()), " ".join(err.split())

    return run


REFUSED = {
    "nothing": ("", "[estate] is missing"),
    "no TOML": ("[estate\nname=", "this is not TOML"),
    "no text": (b"\xff\xfe\x00[", "is not UTF-8"),
    "10 MB": (ESTATE + "#" + 10_000_000 * "x", "is larger than 10 MB"),
    "a link to nowhere": (ESTATE + "[link.gavle.kiruna]\n", '"kiruna" is not declared'),
    "a link to itself": (ESTATE + "[link.gavle.gavle]\n", "joins a site to itself"),
    "no way to estimate a link": (
        changed(("location = [65.58, 22.15]\n", "")),
        "has no rtt, and lulea no location to estimate one from",
    ),
    "a link faster than light": (
        changed((LINK, LINK + 'rtt = { p50 = "1 ms", p99_9 = "2 ms" }\n')),
        "light in fibre needs",
    ),
    "rate zero": (changed(('"5/s"', '"0/s"')), '"0/s" is not a rate'),
    "rate below zero": (changed(('"5/s"', '"-5/s"')), '"-5/s" is not a rate'),
    "rate no number": (changed(('"5/s"', "nan")), "nan is not a rate"),
    "rate without unit": (changed(('"5/s"', "5")), 'did you mean "5/s"?'),
    "budget without unit": (changed(('"60 ms"', "60")), 'did you mean "60 ms"?'),
    "budget zero": (changed(('"60 ms"', '"0 ms"')), "is no time at all"),
    "p50 above p99.9": (changed(('"8 ms"', '"4 ms"')), "has its p99_9 below its p50"),
    "a promise of all": (changed(("0.9\nsources", "1.0\nsources")), "not a share above 0"),
    "no profile": (
        changed((SERVICE, 'model = "weld.onnx"')),
        "run `tidsram profile weld --hardware edge-2` there, or declare service.edge-2",
    ),
    "service of no hardware": (changed(("service.edge-2", "service.edge-3")), '"edge-2"?'),
    "law without a site": (
        changed(("objective = 0.9", 'objective = 0.9\njurisdictions = ["NO"]')),
        "leaves no site",
    ),
    "a floor above all": (
        changed(("objective = 0.9", "objective = 0.9\naccuracy_floor = 0.99")),
        "leaves no variant",
    ),
    "less room than stands there": (
        changed(("max_nodes = 3", "max_nodes = 0")),
        "max_nodes = 0 is less than nodes = 1",
    ),
    "no room anywhere": (changed((ROOM, NO_ROOM)), "no site has room for a node"),
    "no hardware to run on": (
        changed(("lanes = [{ cores = [0] }]\n", "")),
        "no site has hardware with lanes",
    ),
    "nobody asks": (changed(('sources = ["gavle"]\n', "")), "does not say where it is asked"),
    "asked elsewhere": (changed(('["gavle"]', '["gavel"]')), 'did you mean "gavle"?'),
    "no quarter": (
        changed(("objective = 0.9", "objective = 0.9\ngrowth = { 2027-Q5 = 2 }")),
        "is not a quarter",
    ),
    "no decision": (ESTATE.split("[decision")[0], "declares no decision"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_in_a_sentence(plan, text, said):
    status, out, err = plan(text)

    assert status == 2
    assert said in err
    assert out == ""


HOPELESS = {
    "budget in µs": (
        changed(('"60 ms"', '"60 us"')),
        "come to 7.54 ms at p98, 7.48 ms beyond the budget of 60 µs",
        "raise its budget from 60 µs to 8 ms",
    ),
    "an island": (
        changed((LINK, "")),
        "cannot be answered with gavle down: it is down",
        "declare a link",
    ),
    "no room where it is asked": (
        changed((LINK, "")).replace(ROOM, NO_ROOM, 1),
        "it has no room for nodes: max_nodes = 0",
        "add a site or hardware",
    ),
    "capture beyond the budget": (
        changed(("objective = 0.9", 'objective = 0.9\ncapture = "70 ms"')),
        "capture 70 ms, run",
        "raise its budget from 60 ms to 78 ms",
    ),
    "all at once": (
        changed(
            ('["gavle"]', "{ gavle = 1000 }"),
            ('kind = "poisson"', 'kind = "periodic", synchronised = true'),
        ),
        "all 1000 askers ask at once: the last waits 6.83 s",
        "raise its budget",
    ),
    "too much": (changed(('"5/s"', '"5000/s"')), "are full", "raise max_nodes"),
}


@pytest.mark.parametrize(("text", "said", "remedy"), HOPELESS.values(), ids=HOPELESS)
def test_what_cannot_hold_is_explained_with_a_way_out(plan, text, said, remedy):
    status, out, _ = plan(text)

    assert status == 1
    assert out.startswith("north does not hold in ")
    assert said in out
    assert remedy in out


def test_light_is_the_reason_where_only_a_far_site_has_machines(plan):
    """What would mend it has room for the run, not only for the way."""
    text = ESTATE.replace(ROOM, NO_ROOM, 1).replace('"60 ms"', '"5 ms"')

    status, out, _ = plan(text)

    assert status == 1
    assert "physics: light in fibre needs 5.89 ms from gavle and back, the budget is 5 ms" in out
    assert "raise its budget from 5 ms to 2" in out


def test_a_unit_that_may_have_slipped_is_asked_about(plan):
    """It is planned all the same: two seconds may be meant."""
    slipped = changed(('"60 ms"', '"2000 ms"'), ('"5 ms"', '"2 ms"'), ('"8 ms"', '"3 ms"'))

    status, _, err = plan(slipped)

    assert status in (0, 3)
    assert "a budget of 2 s for a model of 2 ms? Or is it 2 ms?" in err


def test_more_flows_than_a_plan_is_for_are_refused(plan):
    """Rather than worked at for hours without a word."""
    places, decision = ESTATE.split("[decision.weld]")
    many = "".join(
        f"[decision.w{number}]" + decision.replace("decision.weld", f"decision.w{number}")
        for number in range(MOST_FLOWS + 1)
    )

    status, _, err = plan(places + many)

    assert status == 2
    assert "has 2,001 flows" in err
