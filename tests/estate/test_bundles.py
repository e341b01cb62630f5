"""Bundles: what a directory says becomes a decision, or one sentence that a person can act on."""

import copy
import hashlib
import json
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tidsram.errors import EstateError, ModelRefused
from tidsram.estate.bundle import (
    MAX_MANIFEST_BYTES,
    LeftOut,
    Manifest,
    Member,
    Source,
    Tensor,
    directory_of,
    ladder_of,
    parse_manifest,
)
from tidsram.estate.load import load_estate, parse_estate, quick_estate, read_model
from tidsram.estate.types import Answer, Question, Variant
from tidsram.lab.bundle import encode, write_bundle

EXACT, QUICK, BRIEF = b"exact", b"quick", b"brief"


def digest(content: bytes) -> str:
    """Return what a manifest says of a file."""
    return hashlib.sha256(content).hexdigest()


LADDER = (
    Member(name="fp32", sha256=digest(EXACT), bytes=5, accuracy=1.0, size=(320, 320)),
    Member(name="int8", sha256=digest(QUICK), bytes=5, precision="int8", threads=2, accuracy=0.9),
    Member(
        name="bf16.ov",
        sha256=digest(BRIEF),
        bytes=5,
        precision="bf16",
        engine="openvino",
        accuracy=0.8,
    ),
)
MANIFEST = Manifest(
    name="obstacle",
    question=Question(kind="image", size=(640, 480), layout="nhwc"),
    answer=Answer(kind="boxes", decoder="rows", threshold=0.35, labels=("person", "car")),
    inputs=(Tensor(name="frame", datatype="UINT8", shape=(1, 480, 640, 3)),),
    outputs=(Tensor(name="boxes", datatype="FP32", shape=(1, 100, 6)),),
    ladder=LADDER,
    left_out=(LeftOut(name="int8-224", why="accuracy 0.5 is below the floor", accuracy=0.5),),
    accuracy_floor=0.75,
    source=Source(file="obstacle.onnx", sha256="a" * 64),
    data_sha256="b" * 64,
    licence="Apache-2.0",
    made_with={"onnx": "1.19.0"},
)
ESTATE = '[estate]\nname = "n"\n[decision.front]\nbundle = "models/obstacle"\nbudget = "100 ms"\n'


@pytest.fixture
def bundle(tmp_path):
    """Write the bundle that the estate's decision names; return its directory."""
    (tmp_path / "tidsram.toml").write_text(ESTATE)
    directory = tmp_path / "models" / "obstacle"
    write_bundle(directory, MANIFEST, {"fp32": EXACT, "int8": QUICK, "bf16.ov": BRIEF})
    return directory


def load(bundle, more=""):
    """Return the estate's one decision; `more` are further lines of it."""
    file = bundle.parent.parent / "tidsram.toml"
    file.write_text(ESTATE + more)
    return load_estate(file).decisions["front"]


def refusal(bundle, more="") -> str:
    """Return what is said of the estate."""
    with pytest.raises(EstateError) as caught:
        load(bundle, more)
    return str(caught.value)


def test_a_decision_takes_its_ladder_and_its_tables_from_its_bundle(bundle):
    """Whatever the decision is called in this estate."""
    decision = load(bundle)

    assert decision.bundle_sha256 == digest((bundle / "manifest.json").read_bytes())
    assert (decision.question, decision.answer) == (MANIFEST.question, MANIFEST.answer)
    assert decision.accuracy_floor == 0.75
    assert decision.ladder == (
        Variant(
            name="fp32",
            model="models/obstacle/variants/fp32.onnx",
            accuracy=1.0,
            sha256=digest(EXACT),
        ),
        Variant(
            name="int8",
            model="models/obstacle/variants/int8.onnx",
            accuracy=0.9,
            threads=2,
            sha256=digest(QUICK),
        ),
        Variant(
            name="bf16.ov",
            model="models/obstacle/variants/bf16.ov.onnx",
            accuracy=0.8,
            engine="openvino",
            precision="bf16",
            sha256=digest(BRIEF),
        ),
    )
    assert directory_of(decision) == "models/obstacle"


def test_openvino_computes_in_f32_unless_a_variant_says_otherwise():
    """Left to itself it would follow the processor."""
    ladder = tuple(
        replace(LADDER[0], name=p, engine="openvino", precision=p) for p in ("fp32", "int8", "bf16")
    )

    found = ladder_of(replace(MANIFEST, ladder=ladder), "b")

    assert [variant.precision for variant in found] == ["f32", "f32", "bf16"]


def test_the_estates_floor_leaves_out_what_is_below_it(bundle):
    """It may ask for more than the bundle was made for, never for less."""
    assert [v.name for v in load(bundle, "accuracy_floor = 0.9\n").ladder] == ["fp32", "int8"]
    assert load(bundle, "accuracy_floor = 0.75\n").accuracy_floor == 0.75
    assert "[decision.front] accuracy_floor = 0.5 is below 0.75, for which the bundle" in refusal(
        bundle, "accuracy_floor = 0.5\n"
    )
    ladder = (replace(LADDER[1], accuracy=0.9),)
    (bundle / "manifest.json").write_bytes(encode(replace(MANIFEST, ladder=ladder)))
    assert "accuracy_floor = 0.95 leaves no variant of the bundle, the most accurate is int8" in (
        refusal(bundle, "accuracy_floor = 0.95\n")
    )


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ('[decision.front.question]\nkind = "image"\n', "[decision.front.question]"),
        ('answer = { kind = "mask" }\n', "[decision.front.answer]"),
        ('memory = "1 GiB"\n', 'memory = "1 GiB"'),
        (
            'service.h = { p50 = "1 ms", p99_9 = "2 ms" }\n[hardware.h]\n',
            "[decision.front.service]",
        ),
    ],
)
def test_what_a_bundle_says_is_not_said_twice(bundle, more, named):
    """Two tables of which one would win unseen."""
    said = refusal(bundle, more)

    assert f"{named} stands beside the bundle models/obstacle, which says that itself" in said


def test_variants_beside_a_bundle_are_refused(bundle):
    """As beside a single file."""
    assert "stands beside variants" in refusal(
        bundle, 'variants.a = { model = "a.onnx", accuracy = 1 }\n'
    )


def test_a_directory_without_a_manifest_is_no_bundle(bundle):
    """As after a copy that was cut short; and the same where nothing is at all."""
    (bundle / "manifest.json").unlink()
    assert "no such file, so this is no finished bundle; make one with `tidsram lab`" in (
        refusal(bundle)
    )
    bundle.rename(bundle.with_name("elsewhere"))
    assert '[decision.front] bundle = "models/obstacle" names no bundle (No such file' in (
        refusal(bundle)
    )


def test_a_manifest_behind_a_link_is_refused(bundle):
    """It could show what this user may read and the bundle's writer may not."""
    file = bundle / "manifest.json"
    file.rename(bundle / "elsewhere.json")
    file.symlink_to("elsewhere.json")

    assert "manifest.json: cannot be read: it is a symbolic link; put the file" in refusal(bundle)


def test_a_manifest_that_is_no_plain_file_is_refused(bundle):
    """A pipe would keep its reader waiting, and a directory has no bytes."""
    file = bundle / "manifest.json"
    file.unlink()
    os.mkfifo(file)
    assert "cannot be read: it is no plain file" in refusal(bundle)
    file.unlink()
    file.mkdir()
    assert "cannot be read: it is no plain file" in refusal(bundle)


def test_a_bundle_may_lie_behind_a_link(bundle):
    """Operators point "current" at a version: the files in it are still its own."""
    bundle.rename(bundle.with_name("v1"))
    bundle.symlink_to("v1")

    assert load(bundle).bundle_sha256 == digest(encode(MANIFEST))


def test_an_estate_that_is_only_parsed_looks_at_no_file():
    """What is named is a single file then, as far as it knows."""
    decision = parse_estate(ESTATE, "tidsram.toml").decisions["front"]

    assert [variant.model for variant in decision.ladder] == ["models/obstacle"]


def test_a_bundle_is_served_without_an_estate(bundle):
    """`tidsram serve DIR --budget 20ms`: the decision is called what the bundle is."""
    estate = quick_estate(bundle, 20_000_000)

    (decision,) = estate.decisions.values()
    assert decision.name == "obstacle"
    assert decision.bundle_sha256 == digest(encode(MANIFEST))
    assert read_model(bundle / decision.ladder[1].model, decision.ladder[1].sha256) == QUICK


# Variants on disk


@given(place=st.integers(0, 4), bit=st.integers(0, 7))
@settings(max_examples=40)
def test_a_variant_of_which_any_bit_has_changed_is_refused(tmp_path_factory, place, bit):
    """Flip one bit of the file."""
    file = tmp_path_factory.mktemp("b") / "variants" / "fp32.onnx"
    file.parent.mkdir()
    changed = bytearray(EXACT)
    changed[place] ^= 1 << bit
    file.write_bytes(changed)

    with pytest.raises(ModelRefused) as caught:
        read_model(file, digest(EXACT))

    assert caught.value.problem == (
        f"its SHA-256 begins with {digest(changed)[:12]} and the bundle's manifest says "
        f"{digest(EXACT)[:12]}, so it is not the file that was validated"
    )


def test_a_variant_is_read_from_its_bundle_only(bundle):
    """Not from where a link leads, be it the file or its directory: not even to the same bytes."""
    variants, file = bundle / "variants", bundle / "variants" / "fp32.onnx"
    assert read_model(file, digest(EXACT)) == EXACT

    file.rename(bundle / "fp32.onnx")
    with pytest.raises(ModelRefused, match=r"it cannot be read \(No such file"):
        read_model(file, digest(EXACT))
    file.symlink_to("../fp32.onnx")
    with pytest.raises(ModelRefused, match="it is a symbolic link; put the file itself there"):
        read_model(file, digest(EXACT))
    file.unlink()
    (bundle / "fp32.onnx").rename(file)
    variants.rename(bundle / "elsewhere")
    variants.symlink_to("elsewhere")
    with pytest.raises(ModelRefused, match="it is a symbolic link; put the file itself there"):
        read_model(file, digest(EXACT))


# Any bytes as a manifest


def parse(content: bytes) -> Manifest | str:
    """Return the manifest, or what was said about it; anything else that is raised comes out."""
    try:
        return parse_manifest(content, "b/manifest.json")
    except EstateError as error:
        return str(error)


def complaint(**changes: object) -> str:
    """Return what is said of the manifest with other values: its first variant's, or at the top."""
    document = json.loads(encode(MANIFEST))
    for key, content in changes.items():
        place = document["ladder"][0] if key in document["ladder"][0] else document
        place[key] = content
    found = parse(json.dumps(document).encode())
    assert isinstance(found, str), found
    return found


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": 2}, "is of format 2, and version 0.1.0 reads format 1; use the version that"),
        ({"format": "new"}, 'is of format "new"'),
        ({"sha256": "a"}, "is no manifest (Expected `str` matching regex"),
        ({"name": "../../etc/passwd"}, "is no manifest (Expected `str` matching regex"),
        ({"surprise": 1}, "is no manifest (Object contains unknown field `surprise`)"),
        ({"ladder": []}, "is no manifest (Expected `array` of length >= 1"),
        ({"accuracy": 0.85}, "contradicts itself: its ladder does not have the most accurate var"),
        ({"accuracy_floor": 0.85}, "bf16.ov is in the ladder and below its floor, accuracy 0.85"),
        ({"precision": "bf16"}, "fp32 is bf16, which onnxruntime does not compute in"),
        ({"size": [0, 9]}, "fp32 sees images of [0, 9] pixels"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]}, '"x" has the shape [-2]'),
        ({"question": {"kind": "image", "images": 99}}, "[question] images = 99 is not a whole"),
        ({"question": {"kind": "image", "sise": [1, 1]}}, 'did you mean "size"?'),
        ({"question": {"kind": "image", "std": [0]}}, "[question] std = [0] holds a wrong item"),
        ({"answer": {"kind": "mask", "decoder": "rows"}}, 'decoder = "rows" makes kind = "boxes"'),
        ({"answer": {"kind": "class", "labels": ["\x1b[2J"]}}, "[answer] labels = "),
    ],
)
def test_a_wrong_manifest_is_explained(changes, problem):
    """One example for each rule; the file comes first and the remedy last."""
    said = complaint(**changes)

    assert said.startswith("b/manifest.json: ")
    assert problem in said


def test_two_variants_of_one_name_are_refused():
    """They would be one file."""
    twice = replace(MANIFEST, ladder=(LADDER[0], replace(LADDER[0], accuracy=0.9)))

    assert "two variants of its ladder share a name" in str(parse(encode(twice)))


def test_half_a_manifest_is_refused():
    """Cut it anywhere: what is left is never taken for a whole one."""
    whole = encode(MANIFEST)

    for end in range(0, len(whole) - 2, 7):
        assert "is no manifest (" in str(parse(whole[:end]))


def test_what_would_exhaust_the_parser_is_one_sentence():
    """Deep, long and large."""
    assert "is no manifest" in str(parse(b"[" * 100_000))
    assert "is no manifest" in str(parse(b'{"format": ' + b"9" * 5000 + b"}"))
    assert "is larger than 4 MB" in str(parse(b" " * (MAX_MANIFEST_BYTES + 1)))


SHARES = st.floats(0, 1)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,12}", fullmatch=True)
MEMBERS = st.builds(
    Member,
    name=NAMES,
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    bytes=st.integers(0, 2**31),
    engine=st.just("openvino"),
    precision=st.sampled_from(["fp32", "int8", "bf16"]),
    threads=st.integers(0, 256),
    size=st.none() | st.tuples(st.integers(1, 16384), st.integers(1, 16384)),
    accuracy=SHARES,
)
LADDERS = st.lists(MEMBERS, min_size=1, max_size=8, unique_by=lambda member: member.name)


@given(LADDERS, SHARES)
def test_a_written_manifest_is_read_as_it_was(members, floor):
    """Whatever its ladder; and a decision's is what of it is at or above the decision's floor."""
    ladder = tuple(sorted(members, key=lambda member: -member.accuracy))
    manifest = replace(MANIFEST, ladder=ladder, accuracy_floor=ladder[-1].accuracy)

    found = parse(encode(manifest))

    assert found == manifest
    assert [v.sha256 for v in ladder_of(manifest, "b", floor)] == [
        member.sha256 for member in ladder if member.accuracy >= floor
    ]


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def damaged(draw):
    """A good manifest in which up to three values are replaced, added or removed, anywhere."""
    document = copy.deepcopy(json.loads(encode(MANIFEST)))
    for _ in range(draw(st.integers(1, 3))):
        at = document
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is None or not isinstance(at[key], (dict, list)) or draw(st.booleans()):
                break
            at = at[key]
        match draw(st.sampled_from(["replace", "add", "remove"])):
            case "replace" if key is not None:
                at[key] = draw(VALUES)
            case "remove" if key is not None:
                del at[key]
            case _ if isinstance(at, dict):
                at[draw(st.text(max_size=8))] = draw(VALUES)
            case _:
                at.append(draw(VALUES))
    return json.dumps(document).encode("utf-8", "surrogatepass")


@settings(max_examples=300)
@given(damaged() | st.binary(max_size=60))
def test_whatever_bytes_are_a_manifest_loading_refuses_them_or_gives_a_valid_ladder(content):
    """One printable sentence, or variants that lie in the bundle and can be proven."""
    found = parse(content)

    if isinstance(found, str):
        assert found.startswith("b/manifest.json: ")
        assert found.isprintable()
        assert len(found) < 600
        return
    ladder = ladder_of(found, "b", found.accuracy_floor)
    assert len(ladder) == len(found.ladder) == len({variant.name for variant in ladder}) > 0
    assert [v.accuracy for v in ladder] == sorted((v.accuracy for v in ladder), reverse=True)
    assert all(len(bytes.fromhex(variant.sha256)) == 32 for variant in ladder)
    for variant in ladder:
        above, name = os.path.split(variant.model)
        assert (os.path.normpath(above), name) == ("b/variants", f"{variant.name}.onnx")


def test_a_manifests_tables_are_held_to_an_estates_rules():
    """Every default is written out in a manifest, and none of them is refused."""
    for question in (None, Question(kind="image"), Question(kind="image", color="gray", images=2)):
        for answer in (None, Answer(kind="tensor"), Answer(kind="mask")):
            manifest = replace(MANIFEST, question=question, answer=answer)
            assert parse(encode(manifest)) == manifest
            assert msgspec.json.decode(encode(manifest))["format"] == 1
