"""A node by a plan: what is warm there, in the planned variant, on the planned lanes; no more."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import toy_models
from nodes import PATIENCE_S, Node, infer, tensor

from tidsram.estate.load import estate_sha256
from tidsram.estate.plan import Plan, PlannedNode, WarmDecision

FIRST, *_, LAST = (*sorted(os.sched_getaffinity(0)), max(os.sched_getaffinity(0)))
TWO_LANES = [[FIRST], [LAST]] if FIRST != LAST else [[FIRST]]
OTHER = len(TWO_LANES) - 1  # the lane that a node without a plan would not choose first
ESTATE = f"""[estate]
name = "works"
[site.here]
hardware = "box"
jurisdiction = "SE"
[site.there]
hardware = "box"
jurisdiction = "DE"
[hardware.box]
lanes = [{", ".join(f"{{ cores = {cores} }}" for cores in TWO_LANES)}]
[decision.weld]
budget = "2 s"
criticality = "critical"
arrivals = {{ kind = "periodic", rate = "10/s" }}
sources = {{ here = 1 }}
[decision.weld.variants]
exact = {{ model = "exact.onnx", accuracy = 0.9 }}
quick = {{ model = "quick.onnx", accuracy = 0.8 }}
[decision.board]
bundle = "exact.onnx"
budget = "2 s"
sources = {{ here = 1 }}
[decision.tissue]
bundle = "quick.onnx"
budget = "2 s"
jurisdictions = ["SE"]
sources = {{ here = 1 }}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """An estate with its models."""
    (tmp_path / "tidsram.toml").write_text(ESTATE)
    (tmp_path / "exact.onnx").write_bytes(toy_models.marked(1))
    (tmp_path / "quick.onnx").write_bytes(toy_models.marked(2))
    return tmp_path


@pytest.fixture
def start(folder):
    """Return a function that starts a node; it is stopped at the end, in order."""
    started = []

    def start_node(*arguments: str) -> Node:
        started.append(Node(folder, arguments).wait_ready())
        return started[-1]

    yield start_node
    for node in started:
        assert node.stop() == 0


def warm(name: str, variant: str, role: str) -> WarmDecision:
    """Return a decision that is warm on the other lane."""
    return WarmDecision(
        decision=name,
        variant=variant,
        role=role,
        lanes=(OTHER,),
        wait_us=1000,
        rate=10.0,
        neighbours=(),
    )


def write_plan(folder: Path, *, verified: bool = True) -> None:
    """Write a plan of two nodes: weld is served on the first, and board stands by there."""
    nodes = tuple(
        PlannedNode(
            site="here",
            node=number,
            hardware="box",
            load=0.2,
            busy=0.1,
            memory_bytes=0,
            warm=entries,
        )
        for number, entries in (
            (1, (warm("weld", "quick", "serves"), warm("board", "exact", "stands by"))),
            (2, (warm("tissue", "quick", "serves"),)),
        )
    )
    plan = Plan(
        estate="works",
        estate_sha256=estate_sha256(folder / "tidsram.toml"),
        made="2026-11-24",
        quarter="2026-Q4",
        currency="EUR",
        yearly_cost=0.0,
        cost_bound=0.0,
        solve_seconds=0.0,
        verify_seconds=0.0,
        rounds=1,
        verified=verified,
        requests=0,
        measured_share=0.0,
        nodes=nodes,
        flows=(),
        cases=(),
        quarters=(),
        purchases=(),
        savings=(),
        assumptions=(),
        problems=(),
    )
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))


def question(decision: str) -> bytes:
    """Return a question on x [1, 4]."""
    return infer(decision, {"inputs": [tensor("x", [1, 2, 3, 4])]})


def refusal(folder: Path, *arguments: str) -> str:
    """Return the one sentence with which `serve` refuses to start."""
    done = subprocess.run(
        [sys.executable, "-m", "tidsram", "serve", *arguments, "--http", "127.0.0.1:0"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    *before, line = done.stderr.splitlines()
    assert all(one.startswith("tidsram[") for one in before), done.stderr
    return line


def test_a_planned_node_serves_what_the_plan_keeps_warm_there(folder, start):
    """The planned variant on the planned lane, though a better one is declared; nothing else."""
    write_plan(folder)

    node = start("--plan", "plan.json", "--site", "here", "--node", "1")

    decisions = node.health()["decisions"]
    lanes = {name: [w["lane"] for w in told["workers"]] for name, told in decisions.items()}
    assert lanes == {"weld": [OTHER], "board": [OTHER]}
    weld = node.ask(question("weld"))
    assert weld.output().tolist() == [[2, 2]]
    assert weld.json["parameters"]["variant"] == "quick"
    assert node.ask(question("board")).status == 200
    assert node.ask(question("tissue")).reason == "unknown-decision"
    for name in decisions:
        (pid,) = node.workers(name)
        assert os.sched_getaffinity(pid) == set(TWO_LANES[OTHER])


def test_a_node_without_a_plan_leaves_out_what_the_law_forbids(start):
    """It says so, and serves the rest."""
    node = start("--site", "there")

    assert sorted(node.health()["decisions"]) == ["board", "weld"]
    assert "tissue is not served at there: its jurisdictions are SE" in node.told()
    assert node.ask(question("weld")).json["parameters"]["variant"] == "exact"


def test_a_plan_of_an_estate_that_has_changed_is_refused(folder):
    """Its lanes and variants may no longer be what they were."""
    write_plan(folder)
    with (folder / "tidsram.toml").open("a") as file:
        file.write("# one more line\n")

    line = refusal(folder, "--plan", "plan.json", "--site", "here", "--node", "1")

    assert line.startswith("tidsram: plan.json was made on 2026-11-24 for estate works, and")
    assert line.endswith("make the plan anew with `tidsram plan -f tidsram.toml`")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--plan", "plan.json"), "plan.json: has 2 nodes at here; say which with --node: 1, 2"),
        (("--plan", "plan.json", "--site", "hree"), 'no site "hree"; did you mean "here"?'),
        (("--plan", "plan.json", "--site", "there"), "plan.json: has no node at there; it has"),
        (("--plan", "plan.json", "--node", "3"), "plan.json: has no node 3 at here; there are"),
        (("--plan", "gone.json"), "gone.json: no such file; make a plan with `tidsram plan`"),
        (("--plan", "tidsram.toml"), "tidsram.toml: is not a plan ("),
        (("--node", "1", "--site", "here"), "name the plan with --plan FILE"),
        (("exact.onnx", "--budget", "1s", "--plan", "plan.json"), "--plan goes with an estate"),
    ],
)
def test_what_cannot_be_served_by_the_plan_is_one_sentence(folder, arguments, said):
    """Exit status 2, and what there is instead."""
    write_plan(folder)

    assert said in refusal(folder, *arguments)


def test_a_plan_that_is_not_verified_is_served_with_a_warning(folder, start):
    """Better served by it than not at all; who starts it should know."""
    write_plan(folder, verified=False)

    node = start("--plan", "plan.json", "--site", "here", "--node", "2")

    assert "warning: it is not verified that plan.json keeps every budget" in node.told()
    assert list(node.health()["decisions"]) == ["tissue"]


def test_what_is_planned_here_is_served_here(folder, start):
    """From an estate to an answer: `plan`, its verdict, `serve --plan`, a question."""
    service = 'service.box = { p50 = "1 ms", p99_9 = "2 ms" }'
    text = f"""[estate]
name = "works"
[site.here]
hardware = "box"
[hardware.box]
lanes = [{{ cores = [{LAST}] }}]
yearly_cost = 1000
[decision.weld]
budget = "2 s"
objective = 0.95
criticality = "critical"
arrivals = {{ kind = "periodic", rate = "10/s" }}
survives = ["node"]
[decision.weld.variants]
quick = {{ model = "quick.onnx", accuracy = 0.8, memory = "50 MiB", {service} }}
"""
    (folder / "tidsram.toml").write_text(text)
    command = [sys.executable, "-m", "tidsram", "plan", "--requests", "200", "--json"]

    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    told = msgspec.json.decode(done.stdout)
    node = start("--plan", told["plan_file"], "--node", "1")

    assert (done.returncode, told["standing"]) == (0, "holds"), done.stderr
    assert len(told["plan"]["nodes"]) == 2  # one may be lost
    assert Path(told["report_file"]).stat().st_size > 0
    assert list(node.health()["decisions"]) == ["weld"]
    assert node.ask(question("weld")).output().tolist() == [[2, 2]]


def test_a_site_where_nothing_may_be_decided_does_not_start(folder):
    """It names the reason for each, and the way out."""
    only = ESTATE.split("[decision.weld]")[0] + "[decision.tissue]" + ESTATE.split("ion.tissue]")[1]
    (folder / "tidsram.toml").write_text(only)

    assert "no decision of estate works may be made at there" in refusal(folder, "--site", "there")


def test_a_variant_that_is_only_declared_cannot_be_served(folder):
    """It has times to plan with, and no model."""
    planned = '{ accuracy = 0.9, memory = "1 MiB", service.box = { p50 = "1 ms", p99_9 = "2 ms" } }'
    head, tail = ESTATE.split("[decision.weld.variants]")
    rest = "[decision.board]" + tail.split("[decision.board]")[1]
    text = f"{head}[decision.weld.variants]\nexact = {planned}\n{rest}"
    (folder / "tidsram.toml").write_text(text)

    line = refusal(folder, "--site", "here")

    assert "model exact: it is declared for planning only. Name its .onnx file with model" in line
