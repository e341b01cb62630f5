"""Askers who dawdle or leave: they cost themselves their answer and nobody else anything."""

import socket
import struct
import time

import pytest
from nodes import Asking, eventually, infer, slow, tensor, tiny

HEAD_TIME_S = 10.0
PROMPT_S = 0.25  # the budget of `prompt`
MINE = 49  # of 64 slots: what one asker gets while the rest is kept for others
QUICK_US = 500_000

PROMPT = infer("prompt", {"inputs": [tensor("x", [1, -2, 3, 4])]})


@pytest.fixture(scope="module")
def own(start_for_module):
    """A node whose slow runs are all aborted: those that end would teach it to expect more."""
    return start_for_module("tiny", "slow")


def test_heads_that_never_end_are_cut_off_and_nobody_notices(node):
    """Fifty askers send a byte now and then; the others' questions are answered as ever."""
    begun = time.monotonic()
    dawdlers = [node.connect() for _ in range(50)]
    with Asking(node, QUICK_US) as other:
        for byte in PROMPT[:8]:
            for connection in dawdlers:
                connection.send(bytes([byte]))
            time.sleep(HEAD_TIME_S / 10)
        answers = [connection.read() for connection in dawdlers]

    assert {answer.status for answer in answers} == {400}
    assert "did not arrive within 10 s" in answers[0].json["error"]
    assert all(HEAD_TIME_S <= answer.at - begun < HEAD_TIME_S + 1 for answer in answers)
    assert all(connection.is_closed() for connection in dawdlers)
    assert other.statuses() == {200}


def test_bodies_that_never_come_are_missed_at_their_deadline(node, notice):
    """504 to each by its deadline; until then they hold slots, but never all of a decision's."""
    missed = node.count("prompt", "deadline")
    dawdlers, sent = [], []
    with Asking(node, QUICK_US) as other:
        for _ in range(MINE):
            dawdlers.append(node.connect())
            sent.append(time.monotonic())
            dawdlers[-1].send(PROMPT[:-10])
        crowded = node.ask(PROMPT)
        elsewhere = node.ask(PROMPT, tcp=True)
        answers = [connection.read() for connection in dawdlers]

    assert (crowded.status, crowded.reason) == (503, "overload")
    assert "the rest is kept for others" in crowded.json["error"]
    assert elsewhere.status == 200
    assert {(a.status, a.reason, a.json["outcome"]) for a in answers} == {
        (504, "deadline", "missed")
    }
    assert "before the question's body had arrived" in answers[0].json["error"]
    for begun, answer in zip(sent, answers, strict=True):
        assert PROMPT_S <= answer.at - begun < PROMPT_S + notice.limit_s
    assert all(connection.is_closed() for connection in dawdlers)
    assert other.statuses() == {200}
    assert node.ask(PROMPT).status == 200
    assert node.count("prompt", "deadline") == missed + MINE


def test_a_body_in_drops_has_its_transfer_counted(node):
    """Slow but in time: answered, and the breakdown says where the time went."""
    with node.connect() as connection:
        connection.send(PROMPT[:-3])
        for byte in PROMPT[-3:]:
            time.sleep(0.03)
            connection.send(bytes([byte]))
        answer = connection.read()

    assert answer.status == 200
    stages = answer.json["parameters"]["stages_us"]
    assert stages["receive"] > 85_000
    assert sum(stages.values()) == answer.json["parameters"]["spent_us"]


@pytest.mark.parametrize("abruptly", [False, True])
def test_an_asker_who_leaves_before_its_body_came_is_gone(node, abruptly):
    """The slot is free at once; closed or reset makes no difference."""
    gone = node.count("prompt", "asker-left")
    connection = node.connect(tcp=True)
    connection.send(PROMPT[:-10])
    eventually(lambda: node.slots_taken() == 1, "begun")

    leave(connection, abruptly=abruptly)

    eventually(lambda: node.count("prompt", "asker-left") == gone + 1, "gone", 1.0)
    assert node.slots_taken() == 0


def test_queued_work_of_askers_who_left_is_withdrawn(start):
    """Ten wait behind a long run and leave, by closing or abruptly: gone, and never run."""
    node = start("slow")
    with node.connect() as patient:
        patient.send(slow(20_000))
        eventually(lambda: node.slots_taken() == 1, "running")
        waiting = [node.connect(tcp=True) for _ in range(10)]
        for connection in waiting:
            connection.send(slow(5_000))
        eventually(lambda: node.slots_taken() == 11, "queued")

        for i, connection in enumerate(waiting):
            leave(connection, abruptly=i < 5)

        eventually(lambda: node.count("slow", "asker-left") == 10, "gone", 0.3)
        assert patient.read().status == 200
        answered = time.monotonic()
        assert node.ask(slow()).status == 200
        assert time.monotonic() - answered < 0.5
    assert node.slots_taken() == 0


def test_the_run_of_an_asker_who_left_is_aborted(own):
    """Nobody wants its answer: the lane is free within an operator, not after two seconds."""
    gone = own.count("slow", "asker-left")
    connection = own.connect()
    connection.send(slow(50_000))
    eventually(lambda: own.slots_taken() == 1, "running")

    left = time.monotonic()
    leave(connection, abruptly=True)

    eventually(lambda: own.slots_taken() == 0, "aborted", 0.5)
    assert own.count("slow", "asker-left") == gone + 1
    assert own.ask(slow()).status == 200
    assert time.monotonic() - left < 1.0


def test_a_deadline_comes_while_the_run_goes_on(own, notice):
    """Missed at the deadline, not when the run would have ended; the lane is free soon after."""
    with own.connect() as connection:
        begun = time.monotonic()
        answer = connection.ask(slow(100_000, budget_us=600_000))

        assert (answer.status, answer.reason) == (504, "deadline")
        assert answer.json["budget_us"] == 600_000
        assert answer.json["safe_action"] == {"brake": True}
        assert 0.6 <= answer.at - begun < 0.6 + notice.limit_s
        assert connection.ask(slow()).status == 200
        assert connection.read_nothing_for(0.2)


def test_a_budget_that_cannot_be_kept_is_refused_at_once(own, notice):
    """Rejected before any work, with what could have been promised."""
    with own.connect() as connection:
        begun = time.monotonic()
        answer = connection.ask(slow(budget_us=1_000))

        assert (answer.status, answer.reason) == (503, "infeasible")
        assert answer.at - begun < notice.limit_s
        assert answer.json["predicted_finish_us"] > 1_000
        assert answer.json["earliest_feasible_us"] > 1_000
        assert answer.json["safe_action"] == {"brake": True}
        again = connection.ask(slow(budget_us=2 * answer.json["earliest_feasible_us"]))
        assert again.status == 200


def test_time_already_spent_counts(node):
    """Half of the budget gone before the question came leaves half; all of it leaves nothing."""
    answer = node.ask(tiny(budget_us=1_000_000, spent_us=400_000)).json["parameters"]
    late = node.ask(tiny(budget_us=1_000_000, spent_us=1_000_000))

    assert answer["budget_us"] == 1_000_000
    assert 400_000 < answer["spent_us"] < 500_000
    assert answer["slack_us"] == 1_000_000 - answer["spent_us"]
    assert (late.status, late.reason) == (503, "infeasible")


@pytest.mark.parametrize(
    "parameters",
    [
        {"spent_us": -5},
        {"spent_us": 10**15},
        {"captured_unix_us": 10**18},
        {"captured_unix_us": -1},
    ],
)
def test_impossible_times_are_clamped_and_counted(node, parameters):
    """Nobody gains time by them, and the operator sees that someone's clock is wrong."""
    before = node.metric("tidsram_oddities_total", decision="tiny")

    answer = node.ask(tiny(**parameters))

    assert answer.status == (503 if parameters == {"spent_us": 10**15} else 200)
    assert node.metric("tidsram_oddities_total", decision="tiny") == before + 1


def leave(connection, *, abruptly):
    """Close, with a reset where abruptly."""
    if abruptly:
        linger = struct.pack("ii", 1, 0)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.socket.close()
