"""The command line: start an estate, check it, and tell a mistake in one sentence."""

import json
import os
import re
import signal
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

from tidsram.cli import main
from tidsram.cli.init import STARTER
from tidsram.estate.load import parse_estate

GOOD = '[estate]\nname = "n"\n[decision.my]\nbundle = "my.onnx"\nbudget = "20 ms"\n'


@pytest.fixture
def tidsram(monkeypatch, tmp_path, capsys):
    """Return a function that runs the command in an empty directory: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tidsram", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return run


LADDER = """[estate]
name = "n"
[decision.my]
budget = "20 ms"
accuracy_floor = 0.5
arrivals = { kind = "gamma", rate = "6/min", cv = 2, burst = 5 }
[decision.my.variants]
quick = { model = "q.onnx", accuracy = 0.75 }
exact = { model = "e.onnx", accuracy = 0.9 }
crude = { model = "c.onnx", accuracy = 0.4 }
"""


def save_model(path, width: int = 3) -> None:
    """Write a model that adds its input [batch, width] to itself."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", width])
    twice = helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["batch", width])
    node = helper.make_node("Add", ["image", "image"], ["twice"])
    graph = helper.make_graph([node], "double", [image], [twice])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)


def test_starter_is_a_good_estate():
    """What `init` writes needs nothing but a model."""
    assert list(parse_estate(STARTER, "starter").decisions) == ["my"]


def test_everything_that_the_starter_suggests_is_allowed():
    """Take the # away from every line that is TOML: the estate is still good."""
    uncommented = re.sub(r"(?m)^# (\[|\w+ = )", r"\1", STARTER)

    estate = parse_estate(uncommented, "starter")

    decision = estate.decisions["my"]
    assert decision.question is not None
    assert decision.answer is not None
    assert decision.shapes
    assert decision.safe_action
    assert estate.hardware["edge"].lanes
    assert estate.sites["local"].hardware == "edge"


def test_variants_that_the_starter_suggests_are_allowed():
    """Put them in the place of the bundle, which they cannot stand beside."""
    with_variants = re.sub(r"(?m)^#   (\[|\w+ = )", r"\1", STARTER.replace("bundle =", "# "))

    decision = parse_estate(with_variants, "starter").decisions["my"]

    assert [variant.name for variant in decision.ladder] == ["fp32", "int8"]
    assert decision.accuracy_floor


def test_init_writes_an_estate_and_never_overwrites_it(tidsram, tmp_path):
    """The second call must leave what is there, and say what to do."""
    assert tidsram("init")[0] == 0
    (tmp_path / "tidsram.toml").write_text("mine")

    status, out, err = tidsram("init")

    assert (status, out) == (2, "")
    assert err == (
        "tidsram: tidsram.toml: is there already and is never overwritten; "
        "name another file with -f\n"
    )
    assert (tmp_path / "tidsram.toml").read_text() == "mine"


def test_init_writes_the_file_that_is_named(tidsram, tmp_path):
    """-f and --json, as every verb takes them."""
    status, out, _ = tidsram("init", "-f", "other.toml", "--json")

    assert (status, json.loads(out)) == (0, {"file": "other.toml"})
    assert (tmp_path / "other.toml").read_text() == STARTER


def test_init_where_nothing_can_be_written_is_one_sentence(tidsram):
    """A directory that does not exist."""
    status, _, err = tidsram("init", "-f", "missing/tidsram.toml")

    assert status == 2
    assert err == "tidsram: missing/tidsram.toml: cannot be written: No such file or directory\n"


def test_started_estate_with_a_model_is_served_here(tidsram, tmp_path):
    """init, a model, check: yes, with model, budget and lane in words."""
    tidsram("init")
    save_model(tmp_path / "models" / "my.onnx")

    status, out, err = tidsram("check")

    assert (status, err) == (0, "")
    assert "Decision my, standard\n" in out
    assert "models/my.onnx: image FP32 [1, 3] → twice FP32 [1, 3]\n" in out
    assert "100 ms from when the question arose to the answer in hand\n" in out
    assert "99 % of requests answered within 100 ms\n" in out
    assert "periodic, 10/s\n" in out
    assert "local: lane 0" in out
    assert out.endswith("All models can be served here.\n")


def test_check_in_json_gives_scripts_the_same(tidsram, tmp_path):
    """One object on stdout with units in its names."""
    (tmp_path / "tidsram.toml").write_text(GOOD)
    save_model(tmp_path / "my.onnx")

    status, out, _ = tidsram("check", "--json")

    report = json.loads(out)
    assert (status, report["ok"], report["estate"]) == (0, True, "n")
    assert report["cores"] == sorted(os.sched_getaffinity(0))
    (site,) = report["sites"]
    assert (site["site"], site["problem"], site["warm"]["my"][0]) == ("local", "", 0)
    (decision,) = report["decisions"]
    assert (decision["decision"], decision["budget_us"]) == ("my", 20_000)
    assert decision["arrivals"] is None
    assert decision["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [1, 3]}]


def test_missing_model_is_a_no(tidsram, tmp_path):
    """The estate is good and is explained; the verdict is on stderr."""
    (tmp_path / "tidsram.toml").write_text(GOOD)

    status, out, err = tidsram("check")

    assert status == 1
    assert "my.onnx: REFUSED, see below" in out
    assert "All models" not in out
    assert (
        err == "tidsram: model my.onnx: there is no such file. Put it there, or change its path.\n"
    )


def test_refused_model_is_a_no(tidsram, tmp_path):
    """A file that is no model, with --json."""
    (tmp_path / "tidsram.toml").write_text(GOOD)
    (tmp_path / "my.onnx").write_bytes(b"not a model")

    status, out, err = tidsram("check", "--json")

    report = json.loads(out)
    assert (status, report["ok"], err) == (1, False, "")
    assert report["decisions"][0]["ladder"][0]["problem"].startswith("model my.onnx: ")


def test_models_are_found_beside_the_estate_not_the_caller(tidsram, tmp_path):
    """A relative bundle starts at the file that declares it."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "tidsram.toml").write_text(GOOD)
    save_model(tmp_path / "there" / "my.onnx")

    assert tidsram("check", "-f", "there/tidsram.toml")[0] == 0


def test_safe_action_and_queue_are_explained(tidsram, tmp_path):
    """What the asker gets instead of an answer belongs to the promise."""
    (tmp_path / "tidsram.toml").write_text(
        f'{GOOD}queue = "newest"\nsafe_action = {{ brake = true }}\n'
    )
    save_model(tmp_path / "my.onnx")

    _, out, _ = tidsram("check")

    assert 'the client does {"brake":true}\n' in out
    assert "only the newest waiting question counts\n" in out
    assert "not declared" in out


def test_ladder_and_arrivals_are_explained(tidsram, tmp_path):
    """The most accurate variant first, none below the floor; how often questions come."""
    (tmp_path / "tidsram.toml").write_text(LADDER)
    save_model(tmp_path / "e.onnx")
    save_model(tmp_path / "q.onnx")

    status, out, err = tidsram("check")

    assert (status, err) == (0, "")
    exact, quick = re.findall(r"  variant +(.*)\n", out)
    shapes = "image FP32 [1, 3] → twice FP32 [1, 3]"
    assert exact == f"exact, accuracy 0.9, e.onnx: {shapes}"
    assert quick == f"quick, accuracy 0.75, q.onnx: {shapes}"
    assert "accuracy 0.5; no variant below it answers\n" in out
    assert "gamma, 6/min, coefficient of variation 2, bursts of up to 5\n" in out


def test_ladder_and_arrivals_in_json(tidsram, tmp_path):
    """The same for scripts; a variant of another shape is named, with its problem."""
    (tmp_path / "tidsram.toml").write_text(LADDER)
    save_model(tmp_path / "e.onnx")
    save_model(tmp_path / "q.onnx", width=4)

    status, out, _ = tidsram("check", "--json")

    (decision,) = json.loads(out)["decisions"]
    exact, quick = decision["ladder"]
    assert status == 1
    assert exact == {
        "variant": "exact",
        "accuracy": 0.9,
        "model": "e.onnx",
        "problem": "",
        "engine": "onnxruntime",
        "precision": "",
        "threads": 0,
        "sha256": "",
        "bytes": None,
    }
    assert decision["bundle"] is None
    assert (quick["variant"], quick["accuracy"]) == ("quick", 0.75)
    assert quick["problem"].startswith(
        "model q.onnx: its input is image FP32 [1, 4], and that of exact image FP32 [1, 3];"
    )
    assert decision["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [1, 3]}]
    assert decision["arrivals"] == {"kind": "gamma", "rate_per_s": 0.1, "cv": 2.0, "burst": 5}


PLANNED = """[estate]
name = "n"
[site.gavle]
jurisdiction = "SE"
nodes = 2
[site.frankfurt]
jurisdiction = "DE"
[hardware.edge]
[decision.my]
bundle = "my.onnx"
budget = "2000 ms"
arrivals = { kind = "periodic", rate = "10/s", synchronised = true }
sources = { gavle = 4, frankfurt = 1 }
growth = { 2027-Q4 = 4.0 }
jurisdictions = ["SE"]
survives = ["node", "link"]
service.edge = { p50 = "2 ms", p99_9 = "3 ms" }
[decision.my.shapes]
image = [1, 3]
"""


def test_what_is_for_planning_is_explained(tidsram, tmp_path):
    """Where it is asked and may be decided, what it survives, and the question about a slip."""
    (tmp_path / "tidsram.toml").write_text(PLANNED)
    save_model(tmp_path / "my.onnx")

    status, out, err = tidsram("check")

    assert (status, err) == (0, "")
    assert "periodic, 10/s, all askers of a source at once\n" in out
    assert "askers     4 at gavle, 1 at frankfurt\n" in out
    assert "survives   the loss of any node or link\n" in out
    assert "grows      4 times by 2027-Q4\n" in out
    assert "decided in SE\n" in out
    assert "never at   frankfurt: its jurisdictions are SE, this site is in DE\n" in out
    assert "warm on    gavle: lane 0" in out
    assert "warm on    frankfurt" not in out
    assert "place      SE, 2 nodes today, at most 16\n" in out
    assert ("Ask about decision my: a budget of 2 s for a model of 2 ms? Or is it 2 ms?\n") in out


def test_what_is_for_planning_is_in_json(tidsram, tmp_path):
    """The same for scripts."""
    (tmp_path / "tidsram.toml").write_text(PLANNED)
    save_model(tmp_path / "my.onnx")

    status, out, _ = tidsram("check", "--json")

    report = json.loads(out)
    (decision,) = report["decisions"]
    gavle, frankfurt = report["sites"]
    assert status == 0
    assert decision["arrivals"]["synchronised"] is True
    assert decision["sources"] == {"gavle": 4, "frankfurt": 1}
    assert (decision["jurisdictions"], decision["survives"]) == (["SE"], ["node", "link"])
    assert (gavle["jurisdiction"], gavle["nodes"], gavle["forbidden"]) == ("SE", 2, {})
    assert frankfurt["forbidden"] == {"my": "its jurisdictions are SE, this site is in DE"}
    assert frankfurt["warm"] == {}
    assert len(report["doubts"]) == 1


def test_variant_without_a_model_is_planned_only(tidsram, tmp_path):
    """Beside one that can be served it is no problem."""
    planned = 'exact = { accuracy = 0.9, service.h = { p50 = "2 ms", p99_9 = "3 ms" } }'
    text = LADDER.replace('exact = { model = "e.onnx", accuracy = 0.9 }', planned)
    (tmp_path / "tidsram.toml").write_text(text + "[hardware.h]\n")
    save_model(tmp_path / "q.onnx")

    status, out, err = tidsram("check")

    assert (status, err) == (0, "")
    assert "variant    exact, accuracy 0.9, planned only\n" in out
    assert out.endswith("All models can be served here.\n")


def test_decision_without_a_model_is_a_no(tidsram, tmp_path):
    """It can be planned; that nothing can serve it yet is the verdict."""
    (tmp_path / "tidsram.toml").write_text(PLANNED.replace('bundle = "my.onnx"\n', ""))

    status, out, err = tidsram("check")

    assert status == 1
    assert "model      planned only\n" in out
    assert err == (
        "tidsram: model my/my: it is declared for planning only and names no file. "
        'Give it one, such as model = "models/my.onnx".\n'
    )


def test_no_site_that_fits_this_machine_is_a_no(tidsram, tmp_path):
    """A lane on a core that no machine of ours has."""
    lane = '[site.far]\nhardware = "h"\n[hardware.h]\nlanes = [{ cores = [4095] }]\n'
    (tmp_path / "tidsram.toml").write_text(GOOD + lane)
    save_model(tmp_path / "my.onnx")

    status, _, err = tidsram("check")

    assert status == 1
    assert err.startswith("tidsram: [hardware.h] lanes[0]: names core 4095, but this machine")


def test_site_of_another_machine_is_no_fault(tidsram, tmp_path):
    """One estate describes many machines: this one has to fit one of its sites."""
    lane = '[site.near]\n[site.far]\nhardware = "h"\n[hardware.h]\nlanes = [{ cores = [4095] }]\n'
    (tmp_path / "tidsram.toml").write_text(GOOD + lane)
    save_model(tmp_path / "my.onnx")

    status, out, err = tidsram("check")

    assert (status, err) == (0, "")
    assert "not here" in out
    assert "core 4095" in out


def test_bad_estate_is_bad_input(tidsram, tmp_path):
    """One sentence on stderr, no traceback."""
    (tmp_path / "tidsram.toml").write_text(GOOD.replace("budget", "budgte"))

    status, out, err = tidsram("check")

    assert (status, out) == (2, "")
    assert err == (
        'tidsram: tidsram.toml: [decision.my] budgte = "20 ms" is not a key of a decision in '
        'version 0.1.0; did you mean "budget"?\n'
    )


def test_bad_input_in_json_is_an_object_with_error_and_code(tidsram):
    """A script reads stdout only."""
    status, out, err = tidsram("check", "--json")

    assert (status, err) == (2, "")
    assert json.loads(out) == {
        "error": "tidsram.toml: no such file; write one with `tidsram init`, "
        "or name another with -f",
        "code": "estate",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["serve", "m.onnx", "--budget", "20"],
            '--budget: "20" has no unit; did you mean "20 ms"?',
        ),
        (["serve", "m.onnx", "--budget", "2h"], '--budget: "2h" is more than an hour'),
        (["serve", "m.onnx", "--shape", "1,3"], '--shape: "1,3" is not a shape; write NAME=1,3,2'),
        (["serve", "m.onnx", "--shape", "x=0,3"], "--shape: { x = [0, 3] } is wrong at x: [0, 3]"),
        (["serve", "m.onnx", "--http", "here"], '--http: "here" is not host:port'),
        (["ask", "my", "--budget", "soon"], '--budget: "soon" is not a duration'),
    ],
)
def test_wrong_option_is_bad_input(tidsram, arguments, said):
    """Options are held to the rules of the estate file, before anything starts."""
    status, _, err = tidsram(*arguments)

    assert status == 2
    assert err.startswith(f"tidsram: {said}")


def test_unknown_verb_suggests_the_nearest(tidsram):
    """Exit status 2, as for any bad input."""
    status, _, err = tidsram("chek")

    assert status == 2
    assert "Did you mean 'check'?" in err


def test_version_is_shown(tidsram):
    """The first thing a bug report needs."""
    assert tidsram("--version") == (0, "tidsram 0.1.0\n", "")


def test_help_imports_nothing_heavy():
    """Help must be there at once: the libraries come with the verb that needs them."""
    code = (
        "import sys, tidsram.cli\n"
        "sys.argv = ['tidsram', '--help']\n"
        "try: tidsram.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'msgspec', 'onnx', 'onnxruntime', 'rich', 'uvloop', 'asyncio', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stderr == "[]\n"
    assert all(verb in ended.stdout for verb in ("demo", "init", "check", "serve", "ask"))


def test_interrupt_ends_quietly(tmp_path):
    """Ctrl-C while the command waits for its input: status 130 and not a word."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "tidsram", "check", "-f", str(pipe)]
    # Opening the other end waits until the command has opened the file and reads.
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        pipe.open("wb"),
    ):
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)

    assert (process.returncode, said) == (130, b"")
