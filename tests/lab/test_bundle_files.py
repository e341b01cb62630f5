"""A bundle is written whole or not at all."""

import errno
import resource
import subprocess
import sys

import pytest
from msgspec.structs import replace

from tidsram.estate.bundle import Manifest, Member, Source, Tensor
from tidsram.lab import bundle as files
from tidsram.lab.bundle import BundleError, encode, unfinished, write_bundle
from tidsram.lab.facts import digest_of

VARIANTS = {"fp32": b"a model" * 1000, "int8": b"a smaller one" * 100}
TENSOR = Tensor(name="x", datatype="FP32", shape=(1, 4))
MANIFEST = Manifest(
    name="my",
    inputs=(TENSOR,),
    outputs=(TENSOR,),
    ladder=tuple(
        Member(name=name, sha256=digest_of(data), bytes=len(data))
        for name, data in VARIANTS.items()
    ),
    source=Source(file="my.onnx", sha256="0" * 64),
    data_sha256="0" * 64,
)
LATER = replace(MANIFEST, licence="later")


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_bundle_takes_the_place_of_the_one_before(tmp_path):
    """With all its files; the digest is that of the manifest, and nothing else is left."""
    place = tmp_path / "deep" / "my"
    write_bundle(place, MANIFEST, VARIANTS, {"profiles/old.json": b"1"})

    digest = write_bundle(place, LATER, VARIANTS, {"report.html": b"page"})

    assert digest == digest_of(encode(LATER))
    assert contents(place) == {
        "manifest.json": encode(LATER),
        "report.html": b"page",
        **{f"variants/{name}.onnx": data for name, data in VARIANTS.items()},
    }
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("most", [0, 1500, 7100])
def test_cut_off_it_leaves_the_one_before(tmp_path, most):
    """By a limit on files' sizes, as a full disk would, at one file or another."""
    place = tmp_path / "my"
    write_bundle(place, MANIFEST, VARIANTS)
    before = contents(place)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(BundleError, match=r"File too large.*--out"):
            write_bundle(place, LATER, VARIANTS, {"report.html": bytes(8000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert contents(place) == before
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_system_that_cannot_exchange_gets_it_in_two_steps(tmp_path, monkeypatch):
    """As NFS does; the result is the same."""
    write_bundle(tmp_path / "my", MANIFEST, VARIANTS)

    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files, "_exchange", refuse)
    write_bundle(tmp_path / "my", LATER, VARIANTS)

    assert (tmp_path / "my" / "manifest.json").read_bytes() == encode(LATER)
    assert [path.name for path in tmp_path.iterdir()] == ["my"]


def test_what_nobody_could_load_is_not_written(tmp_path):
    """Such as an input whose name no manifest may have."""
    strange = replace(MANIFEST, inputs=(replace(TENSOR, name="x\x07"),))

    with pytest.raises(BundleError, match="nothing loads"):
        write_bundle(tmp_path / "my", strange, VARIANTS)

    assert list(tmp_path.iterdir()) == []


def test_what_dead_runs_left_is_taken_away_and_what_living_ones_use_is_not(tmp_path):
    """A run that was killed cannot clean up; the next one for the same place does."""
    script = (
        "import os, signal, pathlib, sys; from tidsram.lab.bundle import unfinished\n"
        "with unfinished(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    place = tmp_path / "my"
    subprocess.run([sys.executable, "-c", script, str(place)], check=False)
    (dead,) = tmp_path.iterdir()

    with unfinished(place) as living, unfinished(place) as other:
        write_bundle(living / "bundle", MANIFEST, VARIANTS)
        found = set(tmp_path.iterdir())

    assert found == {living.parent, other.parent}
    assert dead not in found
    assert list(tmp_path.iterdir()) == []
