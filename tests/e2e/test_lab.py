"""`tidsram lab` and `tidsram profile BUNDLE` whole: a shipped model, real workers, real faults."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from nodes import MARKER, Node, eventually

from tidsram.estate.bundle import parse_manifest
from tidsram.estate.load import load_estate, read_model
from tidsram.lab.bundle import encode
from tidsram.lab.facts import digest_of, read_measured

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/sources/pcb_defect_fcn16_320_fp32.onnx"
DATA = ROOT / "examples/demo/inspection"
MAKE = (
    *("lab", str(MODEL), "--data", str(DATA), "--pair", "test,temp", "--runs", "20"),
    *("-f", str(ROOT / "examples/bundles/tidsram.toml"), "--decision", "inspection"),
    *("--samples", "8"),
)
SMALL = (*MAKE, "--sizes", "320")
FORMS = {"fp32-320", "int8-320", "fp32-160", "int8-160"}


def tidsram(folder: Path, *arguments: str, before: tuple[str, ...] = ()):
    return subprocess.run(
        [*before, sys.executable, "-m", "tidsram", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line on stderr; there is no traceback."""
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def manifest_of(bundle: Path):
    return parse_manifest((bundle / "manifest.json").read_bytes(), str(bundle))


def contents(bundle: Path) -> dict[str, bytes]:
    return {str(f.relative_to(bundle)): f.read_bytes() for f in bundle.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle of four forms, in a directory that lies deep, and what the command printed."""
    folder = tmp_path_factory.mktemp("made") / ("deep" * 25)
    folder.mkdir()
    done = tidsram(folder, *MAKE, "--sizes", "320,160", "--out", "box/insp", "--json")
    assert done.returncode == 0, done.stderr
    return folder / "box/insp", done


def test_every_form_is_in_the_ladder_or_left_out_with_a_reason(made):
    """And what the script reads is what was written."""
    bundle, done = made
    told, manifest = json.loads(done.stdout), manifest_of(bundle)

    ladder = [member.name for member in manifest.ladder]
    assert set(ladder) | {left.name for left in manifest.left_out} == FORMS
    assert len(ladder) + len(manifest.left_out) == len(FORMS)
    assert all(left.why for left in manifest.left_out)
    assert told["digest"] == digest_of((bundle / "manifest.json").read_bytes())
    assert [one["name"] for one in told["ladder"]] == ladder
    assert all(f"{name}:" in done.stderr for name in ladder)  # a line for each form


def test_the_bundle_holds_its_ladder_and_nothing_is_left_beside_it(made):
    """Each file is the one that was validated; no scratch directory remains."""
    bundle, _ = made
    manifest = manifest_of(bundle)

    for member in manifest.ladder:
        read_model(bundle / "variants" / f"{member.name}.onnx", member.sha256)
    assert {file.stem for file in (bundle / "variants").iterdir()} == {
        member.name for member in manifest.ladder
    }
    assert [path.name for path in bundle.parent.iterdir()] == ["insp"]
    assert [path.name for path in bundle.parent.parent.iterdir()] == ["box"]


def test_the_same_inputs_give_the_same_version(made, tmp_path):
    """Only which of the forms are fast enough is measured; no time is part of the version."""
    first = manifest_of(made[0])

    done = tidsram(tmp_path, *MAKE, "--sizes", "320,160", "--out", "again")

    assert done.returncode == 0, done.stderr
    again = manifest_of(tmp_path / "again")
    differing = {"ladder", "left_out"}
    assert {f: getattr(first, f) for f in first.__struct_fields__ if f not in differing} == {
        f: getattr(again, f) for f in again.__struct_fields__ if f not in differing
    }
    members = {member.name: member for member in first.ladder}
    assert all(members.get(one.name, one) == one for one in again.ladder)
    assert members.keys() & {one.name for one in again.ladder}
    assert not any(re.search(r"\d (s|ms|µs|ns)\b", one.why) for one in again.left_out)


def test_a_budget_that_nothing_keeps_is_a_no_and_what_cannot_be_made_is_left_out(tmp_path):
    """Exit 1; the bundle is there all the same. The net cannot be made as small as told."""
    done = tidsram(tmp_path, *MAKE, "--sizes", "320,7", "--budget", "10us", "--out", "slow")

    assert done.returncode == 1, done.stderr
    assert "no variant is fast enough for the budget of 10 µs" in done.stdout
    manifest = manifest_of(tmp_path / "slow")
    assert {member.size for member in manifest.ladder} == {(320, 320)}
    assert {"fp32-7", "int8-7"} <= {left.name for left in manifest.left_out}


def test_a_floor_that_nothing_reaches_is_refused_form_by_form(tmp_path):
    """Exit 2, with each reason; nothing is written, not even the directories above."""
    done = tidsram(tmp_path, *SMALL, "--labels", str(DATA), "--floor", "1", "--out", "a/b/c")

    assert done.returncode == 2
    said = sentence(done)
    assert "fp32-320 – box F1" in said
    assert "int8-320 – box F1" in said
    assert "Lower --floor" in said
    assert list(tmp_path.iterdir()) == []


# Faults ----------------------------------------------------------------------------------------


READING = ".insp.unfinished-*/room"
MEASURING = ".insp.unfinished-*/room/*.alone/tidsram.log"


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (READING, signal.SIGTERM),
        (MEASURING, signal.SIGTERM),
        (MEASURING, signal.SIGINT),
        (MEASURING, signal.SIGKILL),
    ],
)
def test_interrupted_it_leaves_the_bundle_before_as_it_was(made, tmp_path, moment, number):
    """No process is left, and no directory that anybody loads."""
    place = tmp_path / "insp"
    shutil.copytree(made[0], place)
    before, marker = contents(place), f"{MARKER}-{os.getpid()}-{number}"
    running = subprocess.Popen(
        [sys.executable, "-m", "tidsram", *MAKE, "--runs", "100000", "--out", str(place)],
        env=dict(os.environ) | {MARKER: marker},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: any(found.stat().st_size for found in tmp_path.glob(moment)), "that moment")

    running.send_signal(number)

    _, said = running.communicate(timeout=30)
    killed = number == signal.SIGKILL
    assert running.returncode == (-number if killed else 128 + number)
    assert b"Traceback" not in said
    eventually(lambda: not list(Node._find(marker)), "all processes gone")
    assert contents(place) == before
    left = {path.name for path in tmp_path.iterdir()} - {"insp"}
    assert all(name.startswith(".insp.unfinished-") for name in left)
    assert bool(left) == killed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("kilobytes", [64, 900])
def test_a_full_disk_is_one_sentence(tmp_path, kilobytes):
    """Wherever it fills up: what was there before is there, and no more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f'mount -t tmpfs -o size={kilobytes}k none "{disk}" && "$@"; s=$?; ls -A "{disk}"; exit $s'
    )

    done = tidsram(
        tmp_path,
        *SMALL,
        "--out",
        str(disk / "insp"),
        before=("unshare", "-m", "sh", "-c", script, "sh"),
    )

    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in sentence(done)
    assert done.stdout == ""


# profile BUNDLE --------------------------------------------------------------------------------


@pytest.fixture
def bundle(made, tmp_path):
    """A copy of the bundle, with its last rung alone and no times."""
    place = tmp_path / "insp"
    shutil.copytree(made[0], place)
    shutil.rmtree(place / "profiles")
    manifest = manifest_of(place)
    (place / "manifest.json").write_bytes(encode(replace(manifest, ladder=manifest.ladder[-1:])))
    return place


def test_a_bundle_is_profiled_in_each_condition_and_counts_in_an_estate(bundle):
    """Its version stays; a plan reads the times of the hardware type that was named."""
    digest = digest_of((bundle / "manifest.json").read_bytes())

    done = tidsram(
        bundle.parent, "profile", "./insp", "--runs", "10", "--hardware", "box", "--json"
    )

    assert done.returncode == 0, done.stderr
    assert digest_of((bundle / "manifest.json").read_bytes()) == digest
    names = [member.name for member in manifest_of(bundle).ladder]
    told = [(one["variant"], one["condition"]) for one in json.loads(done.stdout)["profiles"]]
    conditions = ("alone", "neighbour", "background")
    assert told == [(name, condition) for name in names for condition in conditions]
    estate = bundle.parent / "tidsram.toml"
    estate.write_text(
        '[estate]\nname = "n"\n[site.s]\nhardware = "box"\n[hardware.box]\n'
        '[decision.pcb]\nbundle = "insp"\nbudget = "60 ms"\n'
    )
    measured = read_measured(load_estate(estate), bundle.parent)
    assert set(measured.profiles) == {("pcb", name, "box") for name in names}
    assert {path.name for path in bundle.parent.iterdir()} == {"insp", "tidsram.toml"}


@pytest.mark.parametrize(
    ("named", "part"),
    [("./gone", "make one with `tidsram lab`"), ("./insp/variants", "make one with `tidsram lab`")],
)
def test_what_is_no_bundle_is_not_profiled(bundle, named, part):
    done = tidsram(bundle.parent, "profile", named)

    assert done.returncode == 2
    assert part in sentence(done)


def test_a_changed_variant_is_not_profiled(bundle):
    """Before any other is, and nothing is written."""
    (last,) = manifest_of(bundle).ladder
    with (bundle / "variants" / f"{last.name}.onnx").open("ab") as file:
        file.write(b"\0")

    done = tidsram(bundle.parent, "profile", "./insp")

    assert done.returncode == 2
    assert "not the file that was validated" in sentence(done)
    assert not (bundle / "profiles").exists()


def test_without_a_core_for_the_neighbour_that_condition_is_not_found_out(bundle):
    """Exit 3, and the way out."""
    arguments = ("profile", "./insp", "--runs", "10", "--conditions", "neighbour")

    done = tidsram(bundle.parent, *arguments, before=("taskset", "-c", "0"))

    assert done.returncode == 3
    assert "needs a core beside the lane" in done.stderr
