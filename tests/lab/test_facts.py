"""Measured facts on disk: what is written is read again, and what is not one of ours is refused."""

import hashlib
import os
import re
import resource

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tidsram.errors import EstateError
from tidsram.estate.types import Decision, Estate, Variant
from tidsram.lab.facts import (
    MAX_FACT_BYTES,
    MAX_FACTS,
    MAX_SAMPLES,
    LinkProbe,
    Measured,
    Profile,
    probe_name,
    profile_name,
    read_measured,
    write_probe,
    write_profile,
)
from tidsram.units import SECOND

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,12}", fullmatch=True)
TIMES = st.lists(st.integers(0, 3600 * SECOND), min_size=1, max_size=5).map(tuple)
PROFILES = st.builds(
    Profile,
    decision=NAMES,
    variant=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=12),
    hardware=NAMES,
    date=st.just("2026-11-24"),
    machine=st.just("a processor, 2 cores, Linux 6.18"),
    model_sha256=st.binary(max_size=4).map(lambda model: hashlib.sha256(model).hexdigest()),
    run_ns=TIMES,
    gate_ns=TIMES,
    memory_bytes=st.integers(0, 2**40),
)
PROBES = st.builds(LinkProbe, a=NAMES, b=NAMES, date=st.just("2026-11-24"), rtt_ns=TIMES)

EXAMPLE = Profile(
    decision="obstacle",
    variant="int8",
    hardware="edge-2",
    date="2026-11-24",
    machine="a processor, 2 cores, Linux 6.18",
    model_sha256=hashlib.sha256(b"model").hexdigest(),
    run_ns=(1, 2, 3),
    gate_ns=(4, 5, 6),
    memory_bytes=7,
)
PROBE = LinkProbe(a="lulea", b="gavle", date="2026-11-24", rtt_ns=(9, 8))
DECLARED = Decision(
    name="obstacle", ladder=(Variant(name="int8", model="models/o.onnx"),), budget_ns=SECOND
)
ESTATE = Estate(name="n", measured="facts", decisions={"obstacle": DECLARED})


def refusal(folder, estate=ESTATE) -> str:
    """Return the sentence with which the facts are refused."""
    with pytest.raises(EstateError) as refused:
        read_measured(estate, folder)
    return str(refused.value)


@settings(max_examples=30)  # each writes to a disk and waits for it
@given(st.lists(PROFILES, max_size=4), st.lists(PROBES, max_size=4))
def test_what_was_written_is_read(tmp_path_factory, profiles, probes):
    """Any profiles and probes come back, the last one of each key."""
    folder = tmp_path_factory.mktemp("facts")
    for profile in profiles:
        write_profile(folder / "facts", profile)
    for probe in probes:
        write_probe(folder / "facts", probe)

    read = read_measured(Estate(name="n", measured="facts"), folder)

    assert read.profiles == {profile.key: profile for profile in profiles}
    assert read.links == {probe.key: probe for probe in probes}
    assert read.stale == ()


@given(PROFILES, PROFILES)
def test_two_profiles_never_share_a_file(one, other):
    """Names may hold the dots that separate them in the file's name."""
    assert (profile_name(one) == profile_name(other)) == (one.key == other.key)


def test_dots_and_dashes_in_names_are_told_apart():
    """The hardest cases of the two properties above."""
    ab = replace(EXAMPLE, decision="a.b", variant="c", hardware="d")
    bc = replace(EXAMPLE, decision="a", variant="b.c", hardware="d")

    assert profile_name(ab) != profile_name(bc)
    assert profile_name(EXAMPLE) == "obstacle.int8.edge-2.json"
    assert probe_name(replace(PROBE, a="a--b", b="c")) != probe_name(
        replace(PROBE, a="a", b="b--c")
    )
    assert probe_name(PROBE) == "gavle--lulea.json"


@pytest.mark.parametrize("measured", ["", "facts"], ids=["nowhere", "no such directory"])
def test_nothing_measured_is_no_error(tmp_path, measured):
    """An estate before its first measurement."""
    assert read_measured(replace(ESTATE, measured=measured), tmp_path) == Measured()


def test_what_a_bundle_brings_counts_for_its_very_variants_until_measured_here(tmp_path):
    """Whatever the decision is called here; not for another file of the same variant's name."""
    digest = EXAMPLE.model_sha256
    own = Variant(name="int8", model="made/variants/int8.onnx", sha256=digest)
    other = replace(own, sha256="0" * 64)
    estate = replace(
        ESTATE,
        decisions={
            name: Decision(name=name, ladder=(variant,), budget_ns=SECOND, bundle_sha256="1" * 64)
            for name, variant in (("front", own), ("rear", own), ("side", other))
        },
    )
    write_profile(tmp_path / "made", EXAMPLE)
    write_profile(tmp_path / "made", replace(EXAMPLE, condition="neighbour"))
    here = replace(EXAMPLE, decision="rear", run_ns=(9,))
    write_profile(tmp_path / "facts", here)

    read = read_measured(estate, tmp_path)

    assert read.profiles == {
        ("front", "int8", "edge-2"): replace(EXAMPLE, decision="front"),
        ("rear", "int8", "edge-2"): here,
    }
    assert read.stale == ()


def test_a_profile_of_another_variant_than_the_bundles_is_stale(tmp_path):
    """The bundle's digest tells, without a look at the file."""
    variant = Variant(name="int8", model="made/variants/int8.onnx", sha256="0" * 64)
    decision = replace(DECLARED, ladder=(variant,), bundle_sha256="1" * 64)
    write_profile(tmp_path / "facts", EXAMPLE)

    read = read_measured(replace(ESTATE, decisions={"obstacle": decision}), tmp_path)

    assert read.profiles == {}
    assert len(read.stale) == 1


def test_a_probe_is_found_in_either_direction(tmp_path):
    """The key is in alphabetical order, whichever end was asked from."""
    write_probe(tmp_path / "facts", PROBE)
    write_probe(tmp_path / "facts", replace(PROBE, a="gavle", b="lulea", rtt_ns=(1,)))

    assert read_measured(ESTATE, tmp_path).links[("gavle", "lulea")].rtt_ns == (1,)


def test_writing_leaves_one_whole_file(tmp_path):
    """The second profile takes the first one's place, and nothing unfinished is left."""
    write_profile(tmp_path / "facts", EXAMPLE)
    file = write_profile(tmp_path / "facts", replace(EXAMPLE, memory_bytes=8))

    assert [path.name for path in file.parent.iterdir()] == ["obstacle.int8.edge-2.json"]
    assert read_measured(ESTATE, tmp_path).profiles[EXAMPLE.key].memory_bytes == 8


def test_a_reader_never_sees_half_a_file(tmp_path):
    """Cut off before its end by a limit on files' sizes, a write leaves the old fact as it was."""
    file = write_profile(tmp_path / "facts", EXAMPLE)
    before = file.read_bytes()

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(EstateError, match="File too large"):
            write_profile(tmp_path / "facts", replace(EXAMPLE, memory_bytes=8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


# Stale -----------------------------------------------------------------------------------------


def test_a_profile_of_another_model_is_stale(tmp_path):
    """It is left out, and the sentence says what renews it."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "o.onnx").write_bytes(b"another model")
    write_profile(tmp_path / "facts", EXAMPLE)

    read = read_measured(ESTATE, tmp_path)

    assert read.profiles == {}
    (sentence,) = read.stale
    assert "`tidsram profile obstacle --hardware edge-2`" in sentence
    assert "models/o.onnx" in sentence


@pytest.mark.parametrize("content", [b"model", None], ids=["the same model", "no model here"])
def test_a_profile_of_this_model_or_of_none_here_stays(tmp_path, content):
    """Who plans need not have the models."""
    if content is not None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "o.onnx").write_bytes(content)
    write_profile(tmp_path / "facts", EXAMPLE)

    read = read_measured(ESTATE, tmp_path)

    assert read.profiles == {EXAMPLE.key: EXAMPLE}
    assert read.stale == ()


# Hostile ---------------------------------------------------------------------------------------


def as_json(fact, **changed) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(fact) | changed)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"decision":' + b"[" * 100_000,
        b"{}",
        b'{"hello": "world"}',
        b"null",
        as_json(EXAMPLE, extra=1),
        as_json(EXAMPLE, run_ns=[]),
        as_json(EXAMPLE, run_ns=[-1]),
        as_json(EXAMPLE, run_ns=[0.5]),
        as_json(EXAMPLE, run_ns=["1"]),
        as_json(EXAMPLE, run_ns=[3601 * SECOND]),
        as_json(EXAMPLE, run_ns=[1] * (MAX_SAMPLES + 1)),
        as_json(EXAMPLE, date="yesterday"),
        as_json(EXAMPLE, date="2026-11-24\n"),
        as_json(EXAMPLE, machine="\x1b[2J"),
        as_json(EXAMPLE, decision="../../etc"),
        as_json(EXAMPLE, model_sha256="no digest"),
        as_json(EXAMPLE, memory_bytes=-1),
        as_json(EXAMPLE)[:-20],
    ],
    ids=lambda content: content[:12],
)
def test_what_is_no_profile_is_refused(tmp_path, content):
    """One sentence with the file's name and what to do."""
    file = write_profile(tmp_path / "facts", EXAMPLE)
    file.write_bytes(content)

    sentence = refusal(tmp_path)

    assert str(file) in sentence
    assert "delete it, and measure again with `tidsram profile`" in sentence
    assert len(sentence) < 600


def test_a_fact_under_another_name_is_refused(tmp_path):
    """A copy would speak for the same thing twice."""
    file = write_profile(tmp_path / "facts", EXAMPLE)
    (file.parent / "copy.json").write_bytes(file.read_bytes())

    assert re.search(r"copy\.json.*belongs in obstacle\.int8\.edge-2\.json", refusal(tmp_path))


def test_a_pipe_and_a_directory_are_refused(tmp_path):
    """Neither keeps the reader waiting."""
    directory = tmp_path / "facts" / "links"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "a--b.json")

    assert "is no plain file" in refusal(tmp_path)

    (directory / "a--b.json").unlink()
    (directory / "a--b.json").mkdir()

    assert "is no plain file" in refusal(tmp_path)


def test_a_huge_file_is_refused_unread(tmp_path):
    """Sparse: nothing but its size is large."""
    file = write_probe(tmp_path / "facts", PROBE)
    os.truncate(file, MAX_FACT_BYTES + 1)

    assert "is larger than" in refusal(tmp_path)


def test_what_else_lies_there_is_no_fact(tmp_path):
    """Notes, and what a killed writer left unfinished."""
    file = write_probe(tmp_path / "facts", PROBE)
    (file.parent / "README").write_text("measured on a Tuesday")
    (file.parent / ".1234.unfinished").write_text('{"a":')

    assert read_measured(ESTATE, tmp_path) == Measured(links={PROBE.key: PROBE})


def test_too_many_files_are_refused(tmp_path):
    """Each is only looked at: nothing is opened."""
    directory = tmp_path / "facts" / "links"
    directory.mkdir(parents=True)
    for number in range(MAX_FACTS + 1):
        os.mknod(directory / f"{number}.json")

    assert f"more than {MAX_FACTS} files" in refusal(tmp_path)


def test_a_file_where_the_directory_should_be_is_refused(tmp_path):
    """To read from, and to write to."""
    (tmp_path / "facts").write_text("")

    assert "facts" in refusal(tmp_path)
    with pytest.raises(EstateError, match="cannot be made"):
        write_probe(tmp_path / "facts", PROBE)
