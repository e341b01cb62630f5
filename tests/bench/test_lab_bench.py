"""The lab's measurement asks the same in both ways, and its page says what was found."""

import os

import pytest
from bench.lab_frames import raw_and_separate
from bench.lab_models import NAMES, declared, source_of
from bench.lab_report import lab

RUNG = {
    "variant": "int8-8",
    "accuracy": 0.9,
    "metric": "box F1",
    "against": "labels",
    "to_original": 0.95,
    "run_us": 1500.0,
    "faster": {"median": 2.5, "low": 2.4, "high": 2.6},
    "wanted": 2.0,
}
WALL = {"model": "m.onnx", "bytes": 15_000_000, "forms": 6, "wall_s": 80.0, "wanted_s": 300}
CLAIM = {"bundle": "b", "variant": "int8-8", "claimed_us": 1900, "runs": 1000, "within": 980}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a lane and an asker, apart")
def test_raw_frame_is_as_right_as_separate_processing(tmp_path):
    """Ask a real node about four boards both ways; the parts of a time lie within the whole."""
    told = raw_and_separate("inspection", tmp_path, tmp_path, questions=4, blocks=1)

    assert told["questions"] == 4
    assert [row["way"] for row in told["rows"]] == ["raw", "separate"]
    assert all(share >= 0.95 for share in told["accuracy_ratio"].values())
    for row in told["rows"]:
        assert row["run_max_us"] < row["node_max_us"] < row["whole_max_us"]


@pytest.mark.parametrize("name", NAMES)
def test_sources_of_the_examples_are_there(name):
    """Every model that is measured lies in the repository, with tables that say how to ask it."""
    decision = declared(name)

    assert source_of(name).is_file()
    assert decision.question is not None
    assert decision.answer is not None


def test_page_tells_what_was_contradicted_and_what_is_out_of_order():
    """One bundle whose times are not in the ladder's order, one claim that did not hold."""
    page = lab(
        {
            "options": {"rounds": 2, "runs": 3, "blocks": 1, "profile_runs": 500},
            "speed": [{"bundle": "b", "fp32_us": 3750.0, "rows": [RUNG], "in_order": False}],
            "frames": [],
            "lab": WALL,
            "claims": [{**CLAIM, "verdict": "contradicted"}],
            "shares": {"steal": 0.0},
            "date": "2026-11-24",
            "machine": {"cpu": "some"},
            "others_busy": 0.0,
            "command": "python -m bench lab",
        }
    )

    assert "| b | int8-8 | 0.900 (box F1, labels) | 0.950 | 1.50 | 2.50 (2.40–2.60) | ≥ 2 |" in page
    assert "Measured in the ladder's order: not b." in page
    assert "| b | int8-8 | 1.90 | 980 of 1,000 | contradicted |" in page
