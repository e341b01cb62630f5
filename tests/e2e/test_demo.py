"""The demo itself, shortened: real node, real models, real askers, one real kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {
    *("asked", "answered", "late", "rejected", "missed", "failed", "budget_us", "objective"),
    *("in_time_share", "p50_us", "p99_us", "p99_9_us", "stages_us", "accuracy", "verdict"),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Play two seconds of it once, in a directory of its own: exit status, stdout, stderr, dir."""
    directory = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "tidsram", "demo", "--seconds", "2", "--json"],
        check=False,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"TIDSRAM_TEST_DEMO": str(directory)},
    )
    return done, json.loads(done.stdout or "null"), directory


def test_stdout_is_one_json_object_with_every_decision(played):
    """Compare its keys with what scripts rely on."""
    done, told, _ = played

    assert told is not None, done.stderr
    assert set(told) == {"decisions", "acts", "ok"}
    assert set(told["decisions"]) == {"obstacle", "tissue", "inspection"}
    assert all(set(decision) == KEYS for decision in told["decisions"].values())


def test_the_exit_status_is_the_verdict(played):
    """A contradicted objective is 1, anything else 0."""
    done, told, _ = played

    verdicts = {decision["verdict"] for decision in told["decisions"].values()}
    assert told["ok"] is ("contradicted" not in verdicts)
    assert done.returncode == (0 if told["ok"] else 1)


def test_every_question_has_one_outcome(played):
    """Add up outcomes, for each decision of the quiet time and for the burst."""
    _, told, _ = played

    for counted in (*told["decisions"].values(), told["acts"]["burst"]):
        outcomes = ("answered", "rejected", "missed", "failed")
        assert sum(counted[outcome] for outcome in outcomes) == counted["asked"]
    assert told["decisions"]["obstacle"]["asked"] >= 19


def test_stages_are_there_and_hold_the_askers_own_work(played):
    """Every decision names the node's stages and the asker's around them."""
    _, told, _ = played

    for decision in told["decisions"].values():
        if decision["answered"]:
            assert {"prepare", "receive", "run", "transport", "read"} <= set(decision["stages_us"])
            assert decision["stages_us"]["run"] > 0


def test_percentiles_without_enough_samples_are_null(played):
    """Twenty questions carry no 99th percentile."""
    _, told, _ = played

    for decision in told["decisions"].values():
        assert decision["p99_us"] is None
        assert decision["p99_9_us"] is None


def test_inspection_finds_the_labelled_defects(played):
    """The answers are those of the real model on real boards."""
    accuracy = played[1]["decisions"]["inspection"]["accuracy"]

    assert accuracy["count"] > 0
    assert accuracy["measures"]["recall"] > 0.8
    assert accuracy["measures"]["precision"] > 0.8


def test_the_acts_tell_what_became_of_questions(played):
    """The burst was refused in part, the worker came back, Virginia is too far."""
    acts = played[1]["acts"]

    assert acts["burst"]["rejected"] > 0
    assert acts["killed_worker"]["back_after_us"] > 0
    assert all(one["after_us"] >= 0 for one in acts["killed_worker"]["in_flight"])
    far = acts["cloud"]["shares"]["obstacle"]["Virginia"]
    assert (far["in_time"], far["share"]) == (0, 0)


def test_pictures_and_page_are_left(played):
    """Look into demo-out."""
    _, told, directory = played

    out = directory / "demo-out"
    assert (out / "report.html").stat().st_size > 10_000
    assert any(out.glob("inspection-*.jpg")) or not told["decisions"]["inspection"]["answered"]
    assert [path.name for path in directory.iterdir()] == ["demo-out"]


def test_the_story_goes_to_stderr_and_has_no_traceback(played):
    """With --json a person may still read along."""
    done = played[0]

    assert "Act 1" in done.stderr
    assert "not for diagnosis" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_process_is_left(played):
    """Look for processes that bear the demo's mark in their environment."""
    _, _, directory = played

    mark = f"TIDSRAM_TEST_DEMO={directory}".encode()
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                left.append((process / "cmdline").read_bytes())
        except OSError:
            continue  # it has just ended, or is somebody else's
    assert left == []
