"""What is deployed is written down whole, and whatever is found there is read or complained of."""

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidsram.errors import ModelRefused, NodeError
from tidsram.estate.types import Decision, Variant
from tidsram.serve.versions import Choice, Remembered, Store, read_version
from tidsram.units import SECOND

A, B, C = (hashlib.sha256(letter).hexdigest() for letter in (b"a", b"b", b"c"))
CHOICE = Choice(
    version=Remembered(path="/b.onnx", sha256=B),
    instead_of=A,
    before=(Remembered(path="", sha256=A),),
)
GAUGE = Decision(name="gauge", ladder=(Variant(name="own", model="own.onnx"),), budget_ns=SECOND)


def test_what_is_written_is_read_again(tmp_path):
    """And nothing is left beside it."""
    store = Store(tmp_path / "state" / "here.deployed.json")

    store.write({"gauge": CHOICE})

    deployed, complaint = store.read()
    assert (deployed.decisions, complaint) == ({"gauge": CHOICE}, "")
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["here.deployed.json"]


def test_nothing_written_is_nothing_deployed(tmp_path):
    """Without a complaint: so it is on every first start."""
    deployed, complaint = Store(tmp_path / "here.deployed.json").read()

    assert (deployed.decisions, complaint) == ({}, "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), cut=st.integers(0, 400))
def test_whatever_lies_there_is_read_or_complained_of(tmp_path, content, cut):
    """Half of what was written, or anything else."""
    path = tmp_path / "here.deployed.json"
    store = Store(path)
    store.write({"gauge": CHOICE})
    whole = path.read_bytes()
    for damaged in (whole[:cut] + content, content):
        path.write_bytes(damaged)
        deployed, complaint = store.read()
        assert complaint == "" or deployed.decisions == {}


def test_what_cannot_be_written_down_is_said(tmp_path):
    """Then nothing is changed."""
    (tmp_path / "state").write_text("a file where the directory should be")

    with pytest.raises(NodeError, match="nothing was changed"):
        Store(tmp_path / "state" / "here.deployed.json").write({"gauge": CHOICE})


def test_a_single_model_is_a_version_by_its_own_digest(tmp_path):
    """Its bytes are in memory then: the file may go."""
    (tmp_path / "b.onnx").write_bytes(b"b")

    version = read_version(tmp_path, GAUGE, str(tmp_path / "b.onnx"))

    assert version.sha256 == B
    assert version.decision.ladder[0].name == "b"
    assert list(version.model_fds) == [0]
    version.forget_models()
    assert version.model_fds == {}


def test_a_version_that_has_changed_is_refused(tmp_path):
    """By what was remembered of it."""
    (tmp_path / "b.onnx").write_bytes(b"c")

    with pytest.raises(NodeError, match=f"is {C[:12]} now, and was {B[:12]}"):
        read_version(tmp_path, GAUGE, str(tmp_path / "b.onnx"), B)


def test_a_version_that_is_gone_is_refused(tmp_path):
    """With the file's name."""
    with pytest.raises(ModelRefused, match=r"b\.onnx: there is no such file"):
        read_version(tmp_path, GAUGE, str(tmp_path / "b.onnx"))
