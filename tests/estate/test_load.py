"""Loading: a good estate becomes values, anything else one sentence that a person can act on."""

import copy
import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tidsram
from tidsram.errors import EstateError, ModelRefused
from tidsram.estate import values
from tidsram.estate.load import (
    MAX_ESTATE_BYTES,
    load_estate,
    parse_estate,
    quick_estate,
    read_model,
    read_option,
)
from tidsram.estate.types import (
    Answer,
    Arrivals,
    Criticality,
    DataClass,
    Decision,
    Delay,
    Estate,
    Hardware,
    Lane,
    Link,
    Question,
    Site,
    Variant,
)

FULL = """
[estate]
name = "norrland"
state = "var"
measured = "facts"
currency = "SEK"

[site.gavle]
hardware = "edge-2"
http = "127.0.0.1:8701"
jurisdiction = "SE"
nodes = 2
max_nodes = 8
offers = ["edge-4"]
location = [60.67, 17.14]
yearly_cost = 1200

[site.lulea]
http = ""
unix = "/run/lulea.sock"

[link.gavle.lulea]
rtt = { p50 = "9 ms", p99_9 = "13 ms" }

[data.camera]
jurisdictions = ["SE"]
sites = ["gavle"]

[hardware.edge-4]

[hardware.edge-2]
lanes = [{ cores = [1], device = "cpu" }, { cores = [2, 3] }]
scheduling = "fifo"
memory = "8 GiB"
yearly_cost = 4200.5
lead_time = "10 days"

[decision.obstacle]
bundle = "models/obstacle.onnx"
budget = "100 ms"
objective = 0.999
criticality = "critical"
arrivals = { kind = "periodic", rate = "10/s", synchronised = true }
queue = "newest"
safe_action = { brake = true }
record = "none"
shapes = { images = [1, 3, 320, 320] }
sources = { gavle = 4, lulea = 2 }
growth = { 2027-Q4 = 4, 2027-Q1 = 1.5 }
data = "camera"
jurisdictions = ["SE", "NO"]
survives = ["node", "link"]
access = { p50 = "1 ms", p99_9 = "4 ms" }
capture = "8 ms"
actuation = "20 ms"
memory = "200 MiB"
service.edge-2 = { p50 = "18.5 ms", p99_9 = "21 ms" }

[decision.obstacle.question]
kind = "image"
size = [320, 240]
color = "bgr"
mean = [103.53, 116.28, 123.675]
std = [57.375]
layout = "nchw"

[decision.obstacle.answer]
kind = "boxes"
decoder = "nanodet"
threshold = 0.35
labels = ["person", "car"]

[decision."tissue.v2"]
budget = "1 s"
accuracy_floor = 0.75
arrivals = { kind = "gamma", rate = "6/min", cv = 2, burst = 5 }

[decision."tissue.v2".variants.int8]
model = "t8.onnx"
accuracy = 0.75

[decision."tissue.v2".variants.fp32]
model = "t32.onnx"
accuracy = 0.9

[decision."tissue.v2".variants.tiny]
model = "t1.onnx"
accuracy = 0.74

[decision."tissue.v2".variants.planned]
accuracy = 0.8
memory = "1 GiB"
service = { edge-4 = { p50 = "2 ms", p99_9 = "2 ms" } }
"""

ESTATE = '[estate]\nname = "n"\n'
DECISION = '[decision.obstacle]\nbundle = "m.onnx"\nbudget = "100 ms"\n'
GOOD = ESTATE + DECISION
LATER = "is in tidsram's design, but version 0.1.0 does not honour it yet; take it out"


def complaint(text: str) -> str:
    with pytest.raises(EstateError) as caught:
        parse_estate(text, "tidsram.toml")
    return str(caught.value)


def test_full_estate_is_read_value_by_value():
    """Every key that this version reads, with a value other than its default."""
    assert parse_estate(FULL, "tidsram.toml") == Estate(
        name="norrland",
        state="var",
        measured="facts",
        currency="SEK",
        sites={
            "gavle": Site(
                name="gavle",
                hardware="edge-2",
                http="127.0.0.1:8701",
                unix="var/gavle.sock",
                jurisdiction="SE",
                nodes=2,
                max_nodes=8,
                offers=("edge-4",),
                location=(60.67, 17.14),
                yearly_cost=1200.0,
            ),
            "lulea": Site(name="lulea", http="", unix="/run/lulea.sock"),
        },
        links=(Link(a="gavle", b="lulea", rtt=Delay(p50_ns=9_000_000, p99_9_ns=13_000_000)),),
        data={"camera": DataClass(name="camera", jurisdictions=("SE",), sites=("gavle",))},
        hardware={
            "edge-4": Hardware(),
            "edge-2": Hardware(
                lanes=(Lane(cores=(1,)), Lane(cores=(2, 3))),
                memory_bytes=8 * 2**30,
                scheduling="fifo",
                yearly_cost=4200.5,
                lead_weeks=2,
            ),
        },
        decisions={
            "obstacle": Decision(
                name="obstacle",
                ladder=(
                    Variant(
                        name="obstacle",
                        model="models/obstacle.onnx",
                        memory_bytes=200 * 2**20,
                        service={"edge-2": Delay(p50_ns=18_500_000, p99_9_ns=21_000_000)},
                    ),
                ),
                budget_ns=100_000_000,
                objective=0.999,
                criticality=Criticality.CRITICAL,
                arrivals=Arrivals(kind="periodic", rate=10.0, synchronised=True),
                queue="newest",
                safe_action={"brake": True},
                shapes={"images": (1, 3, 320, 320)},
                question=Question(
                    kind="image",
                    size=(320, 240),
                    color="bgr",
                    mean=(103.53, 116.28, 123.675),
                    std=(57.375,),
                ),
                answer=Answer(
                    kind="boxes", decoder="nanodet", threshold=0.35, labels=("person", "car")
                ),
                sources={"gavle": 4, "lulea": 2},
                growth={"2027-Q1": 1.5, "2027-Q4": 4.0},
                data="camera",
                jurisdictions=("SE", "NO"),
                survives=("node", "link"),
                access=Delay(p50_ns=1_000_000, p99_9_ns=4_000_000),
                capture_ns=8_000_000,
                actuation_ns=20_000_000,
            ),
            "tissue.v2": Decision(
                name="tissue.v2",
                ladder=(
                    Variant(name="fp32", model="t32.onnx", accuracy=0.9),
                    Variant(
                        name="planned",
                        model="",
                        accuracy=0.8,
                        memory_bytes=2**30,
                        service={"edge-4": Delay(p50_ns=2_000_000, p99_9_ns=2_000_000)},
                    ),
                    Variant(name="int8", model="t8.onnx", accuracy=0.75),
                ),
                budget_ns=1_000_000_000,
                accuracy_floor=0.75,
                arrivals=Arrivals(kind="gamma", rate=0.1, cv=2.0, burst=5),
            ),
        },
    )


def test_estate_without_a_site_gets_one_called_local():
    """The smallest estate that can be served: a name and a decision."""
    estate = parse_estate(GOOD, "tidsram.toml")

    assert estate.sites == {"local": Site(name="local", unix=".tidsram/local.sock")}


def test_complaints_name_this_version():
    """The number in complaints is the package's own."""
    assert tidsram.__version__ == values.VERSION


def test_unknown_key_names_file_table_key_value_and_the_nearest_spelling():
    """The example that all other complaints are modelled on, word for word."""
    assert complaint(GOOD.replace("budget", "budgte")) == (
        'tidsram.toml: [decision.obstacle] budgte = "100 ms" is not a key of a decision '
        'in version 0.1.0; did you mean "budget"?'
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "objective = 95",
            ("objective = 95 is not a share above 0 and below 1, such as 0.99; did you mean 0.95?"),
        ),
        ("objective = 99.9", "did you mean 0.999?"),
        ("objective = 1", "objective = 1 is not a share above 0 and below 1"),
        ("objective = 0.0", "objective = 0.0 is not a share"),
        ("objective = -0.5", "objective = -0.5 is not a share"),
        ("objective = nan", "objective = nan is not a finite number"),
        ("objective = true", "objective = true is not a finite number"),
        ('objective = "0.9"', 'objective = "0.9" is a string; write the number without quotes'),
        ("objective = 0x" + "f" * 9999, "is not a finite number"),
        (
            'criticality = "hard"',
            'is not allowed here; allowed is "critical", "standard", "best-effort"',
        ),
        ('criticality = "Best Effort"', 'did you mean "best-effort"?'),
        ("queue = 1", 'queue = 1 is not allowed here; allowed is "edf", "newest"'),
        ("shapes = { x = [1, -1] }", "-1 is not a whole number from 1 to"),
        ("shapes = { x = [] }", "[] is not a list of 1 to 16 items"),
        ("shapes = 1", "shapes = 1 is not a table"),
        (
            "safe_action = true",
            "safe_action = true is not a table; write one like { brake = true }",
        ),
        ("safe_action = { at = 2026-11-24 }", "holds a date"),
        ("safe_action = { speed = inf }", "a non-finite number"),
        (f'safe_action = {{ say = "{"x" * 5000}" }}', "at most 4096 as JSON"),
        ('question = "image"', "is not a table; write [decision.obstacle.question] and its keys"),
        ("arrivals = { kind = 1, rate = 1 }", "kind = 1 is not allowed here"),
        ('arrivals = { kind = "periodc", rate = "1/s" }', 'did you mean "periodic"?'),
        (
            'arrivals = { kind = "poisson" }',
            ('[decision.obstacle.arrivals] has no rate; add a line such as rate = "10/s"'),
        ),
        (
            'arrivals = { kind = "poisson", rate = 10 }',
            'rate = 10 has no unit; did you mean "10/s"?',
        ),
        ('arrivals = { kind = "poisson", rate = [] }', "rate = [] is not a rate"),
        ('arrivals = { kind = "poisson", rate = "2000000/s" }', 'at most "1000000/s"'),
        (
            'arrivals = { kind = "gamma", rate = "1/s" }',
            "[decision.obstacle.arrivals] has no cv; add a line such as cv = 2",
        ),
        (
            'arrivals = { kind = "poisson", rate = "1/s", cv = 1 }',
            'cv = 1 is of kind = "gamma" only, not of "poisson"; take it out',
        ),
        *(
            (
                f'arrivals = {{ kind = "gamma", rate = "1/s", cv = {cv} }}',
                f"cv = {cv} is not a coefficient of variation from 0.01 to 100",
            )
            for cv in ("0", "-2", "0.001", "101")
        ),
        ('arrivals = { kind = "gamma", rate = "1/s", cv = nan }', "cv = nan is not a finite"),
        *(
            (
                f'arrivals = {{ kind = "periodic", rate = "1/s", burst = {burst} }}',
                f"burst = {burst} is not a whole number from 1 to 10000",
            )
            for burst in ("0", "-1", "1.5", "true", "10001")
        ),
        (
            "bundel = 1",
            'bundel = 1 is not a key of a decision in version 0.1.0; did you mean "bundle"?',
        ),
        (
            "zzz = 1",
            "zzz = 1 is not a key of a decision in version 0.1.0; known are bundle, budget, ",
        ),
        (
            "questoin = {}",
            (
                "[decision.obstacle.questoin] is not a table of a decision in version 0.1"
                '.0; did you mean "question"?'
            ),
        ),
        ("v2 = { budget = 1 }", 'a name with a dot is quoted: "obstacle.v2"'),
    ],
)
def test_wrong_value_of_a_decision_is_explained(line, problem):
    """One example for each rule; all begin with file and table."""
    said = complaint(f"{GOOD}{line}\n")

    assert said.startswith("tidsram.toml: [decision.obstacle")
    assert problem in said


@pytest.mark.parametrize(
    ("budget", "problem"),
    [
        ("100", 'budget = 100 has no unit; did you mean "100 ms"?'),
        ("0.5", 'budget = 0.5 has no unit; did you mean "0.5 ms"?'),
        ('"100"', 'budget = "100" has no unit; did you mean "100 ms"?'),
        ("-100", 'budget = -100 is not a duration; write one like "100 ms"'),
        ("nan", "budget = nan is not a duration"),
        ("false", "budget = false is not a duration"),
        ('"0 ms"', 'budget = "0 ms" is no time at all'),
        (
            '"-5 ms"',
            'budget = "-5 ms" is not a duration like "20 ms"; units are ns, us, ms, s, min, h',
        ),
        ('"61 min"', 'budget = "61 min" is more than an hour; allowed is at most "1 h"'),
        ('"100 msec"', 'budget = "100 msec" is not a duration like "20 ms"; units are'),
    ],
)
def test_wrong_budget_is_explained(budget, problem):
    """The key that a person is most likely to write wrong."""
    said = complaint(GOOD.replace('"100 ms"', budget))

    assert said.startswith(f"tidsram.toml: [decision.obstacle] {problem}")


def ladder(declared: str, keys: str = "") -> str:
    """Return an estate whose decision has these variants."""
    return f'{ESTATE}[decision.obstacle]\nbudget = "100 ms"\n{keys}\nvariants = {{ {declared} }}\n'


A = 'a = { model = "a.onnx", accuracy = 0.9 }'
B = 'b = { model = "b.onnx", accuracy = 0.8 }'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            f"{GOOD}variants = {{ {A} }}\n",
            '[decision.obstacle] bundle = "m.onnx" stands beside variants; keep one of them',
        ),
        (ladder(""), "[decision.obstacle.variants] declares 0 variants; allowed are 1 to 8"),
        (
            ladder(", ".join(A.replace("a =", f"a{i} =", 1) for i in range(9))),
            "[decision.obstacle.variants] declares 9 variants; allowed are 1 to 8",
        ),
        (
            ladder("").replace("{  }", '"int8"'),
            'variants = "int8" is not a table; write [decision.obstacle.variants.NAME]',
        ),
        (
            ladder('a = "a.onnx"'),
            (
                '[decision.obstacle.variants] a = "a.onnx" stands outside a table of its own; '
                "write [decision.obstacle.variants.NAME] above the keys of a variant"
            ),
        ),
        (ladder(f'"a b" = {{ }}, {B}'), 'is not a name: use at most 64 letters, digits, "_"'),
        (
            ladder("a = { accuracy = 0.9 }"),
            "[decision.obstacle.variants.a] has no model; add a line such as model = ",
        ),
        (ladder("a = { model = 7 }"), "[decision.obstacle.variants.a] model = 7 is not a string"),
        (
            ladder(f'a = {{ model = "a.onnx" }}, {B}'),
            "[decision.obstacle.variants.a] has no accuracy; add a line such as accuracy = 0.9",
        ),
        (
            ladder('a = { model = "a.onnx" }', "accuracy_floor = 0.5"),
            "[decision.obstacle.variants.a] has no accuracy",
        ),
        (ladder(A.replace("0.9", "90")), "accuracy = 90 is not a score from 0 to 1"),
        (ladder(A.replace("0.9", '"0.9"')), "write the number without quotes"),
        (ladder(A.replace("0.9", "nan")), "accuracy = nan is not a finite number"),
        (ladder(A.replace("accuracy", "acuracy")), 'did you mean "accuracy"?'),
        (
            ladder(f"{B}, {A}", "accuracy_floor = 0.95"),
            (
                "[decision.obstacle] accuracy_floor = 0.95 leaves no variant, the most accurate is "
                "a with 0.9; lower it, or add a better variant"
            ),
        ),
        (ladder(A, "accuracy_floor = 2"), "accuracy_floor = 2 is not a score from 0 to 1"),
        (
            GOOD + "accuracy_floor = 0.5\n",
            "[decision.obstacle] accuracy_floor = 0.5 compares variants, and there are none",
        ),
    ],
)
def test_wrong_ladder_is_explained(text, problem):
    """One example for each rule of variants and their floor."""
    assert problem in complaint(text)


def test_ladder_begins_with_the_most_accurate_and_keeps_the_order_of_equals():
    """The rungs are the places in it."""
    equals = "".join(f', {name} = {{ model = "{name}", accuracy = 0.85 }}' for name in "zcx")

    found = parse_estate(ladder(f"{B}{equals}, {A}"), "t").decisions["obstacle"].ladder

    assert [variant.name for variant in found] == ["a", "z", "c", "x", "b"]


def test_single_variant_needs_no_accuracy():
    """There is nothing to compare it with."""
    found = parse_estate(ladder('a = { model = "a.onnx" }'), "t").decisions["obstacle"].ladder

    assert found == (Variant(name="a", model="a.onnx"),)


@pytest.mark.parametrize(
    ("addition", "table"),
    [
        ('record = "required"', '[decision.obstacle] record = "required"'),
        ('record = "durable"', '[decision.obstacle] record = "durable"'),
        (
            'arrivals = { kind = "trace", rate = "1/s" }',
            '[decision.obstacle.arrivals] kind = "trace"',
        ),
        (
            'arrivals = { kind = "poisson", rate = "1/s", file = "t.csv" }',
            '[decision.obstacle.arrivals] file = "t.csv"',
        ),
        ("[site.a.node.n1]", "[site.a.node]"),
        ('[site.a]\ngrpc = "127.0.0.1:1"', "[site.a] grpc"),
        ('[site.a]\nfabric = "127.0.0.1:1"', "[site.a] fabric"),
    ],
)
def test_promise_of_a_later_version_is_refused_not_ignored(addition, table):
    """Whatever the design declares and this version does not act on."""
    said = complaint(f"{GOOD}{addition}\n")

    assert said.startswith(f"tidsram.toml: {table}")
    assert LATER in said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", '[estate] is missing; begin the file with [estate] and name = "my-estate"'),
        (DECISION, "[estate] is missing"),
        ("estate = 1\n", "estate = 1 is not a table; write [estate] and its keys"),
        ("[estate]\n" + DECISION, '[estate] has no name; add a line such as name = "my-estate"'),
        (ESTATE, "declares no decision; add [decision.NAME] with its bundle and its budget"),
        (
            ESTATE + "[decisions.a]\n",
            ('[decisions] is not a table of an estate in version 0.1.0; did you mean "decision"?'),
        ),
        ("x = 1\n" + GOOD, "x = 1 is not a key of an estate in version 0.1.0; known are estate"),
        (ESTATE + "[decision.a]\n", "[decision.a] has no bundle; add a line such as bundle = "),
        (ESTATE + '[decision.a]\nbundle = "m"\n', "[decision.a] has no budget; add a line such as"),
        (
            ESTATE + '[decision]\nbudget = "1 s"\n',
            '[decision] budget = "1 s" stands outside a table of its own',
        ),
        (ESTATE + "decision = 1\n", "[estate] decision = 1 is not a key of the estate in version"),
        (
            GOOD.replace('"m.onnx"', '""'),
            '[decision.obstacle] bundle = "" is empty or holds unprintable',
        ),
        (
            GOOD.replace('"m.onnx"', '"m\\u0000"'),
            'bundle = "m\\u0000" is empty or holds unprintable',
        ),
        (GOOD.replace('"m.onnx"', "7"), "bundle = 7 is not a string; write it in quotes"),
        (GOOD.replace('"n"', '"a/b"'), '[estate] name = "a/b" is not a name: use at most 64'),
    ],
)
def test_wrong_frame_is_explained(text, problem):
    """What is missing or misplaced around the decisions."""
    said = complaint(text)

    assert said.startswith("tidsram.toml: ")
    assert problem in said


@pytest.mark.parametrize(
    ("name", "near"),
    [("a b", "a-b"), ("vård/akut", "v-rd-akut"), (".hidden", "hidden"), ("x" * 65, "x" * 64)],
)
def test_name_that_no_url_or_metric_can_carry_is_refused(name, near):
    """A decision's name is a path segment and a label; the complaint offers the nearest one."""
    said = complaint(GOOD.replace("obstacle", json.dumps(name, ensure_ascii=False)))

    assert 'is not a name: use at most 64 letters, digits, "_", "." and "-"' in said
    assert said.endswith(f'did you mean "{near}"?')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[site.a]\nhardware = 'edge2'\n[hardware.edge-2]\n",
            ('[site.a] hardware = "edge2" is not declared in this file; did you mean "edge-2"?'),
        ),
        ("[site.a]\nhardware = 'edge2'\n", "add [hardware.edge2], or take it out"),
        (
            "[site.a]\nhttp = 'localhost'\n",
            '[site.a] http = "localhost" is not host:port; write one like "127.0.0.1:8700"',
        ),
        ("[site.a]\nhttp = '127.0.0.1:70000'\n", "names port 70000; the highest is 65535"),
        ("[site.a]\nhttp = 'http://h:80'\n", "is not host:port"),
        ("[site.a]\nunix = ''\n", '[site.a] unix = "" is empty or holds unprintable characters'),
        ("[site.a]\nhttp = 8700\n", "http = 8700 is not a string"),
        (
            "[hardware.h]\nlanes = [{ cores = [1] }, { cores = [2, 1] }]\n",
            (
                "[hardware.h] lanes[1] co"
                "res = [2, 1] names core 1 that lanes[0] has already; lanes never share a core"
            ),
        ),
        ("[hardware.h]\nlanes = [{ cores = [1, 1] }]\n", "names core 1 twice"),
        ("[hardware.h]\nlanes = [{ cores = [-1] }]\n", "-1 is not a whole number from 0 to 4095"),
        ("[hardware.h]\nlanes = [{ cores = [true] }]\n", "true is not a whole number"),
        ("[hardware.h]\nlanes = [{ cores = [] }]\n", "cores = [] is not a list of 1 to 1024 items"),
        ("[hardware.h]\nlanes = [{ }]\n", "[hardware.h] lanes[0] has no cores; add a line such as"),
        (
            "[hardware.h]\nlanes = [{ cors = [1] }]\n",
            (
                "[hardware.h] lanes[0] cors = [1] is not a key "
                'of a lane in version 0.1.0; did you mean "cores"?'
            ),
        ),
        (
            "[hardware.h]\nlanes = [{ cores = [1], device = 'gpu' }]\n",
            'device = "gpu" is not allowed here; allowed is "cpu"',
        ),
        (
            "[hardware.h]\nlanes = [{ cores = [1], x = { y = 1 } }]\n",
            "lanes[0] x = { y = 1 } is not a table of a lane",
        ),
        (
            "[hardware.h]\nlanes = []\n",
            "lanes = [] is not a list of tables; write one like [{ cores = [1] }]",
        ),
        ("[hardware.h]\nlanes = [1]\n", "lanes = [1] is not a list of tables"),
        ("[hardware.h]\nscheduling = 'rt'\n", 'allowed is "auto", "fifo", "nice"'),
        ("[hardware.h]\nmemory = 8\n", 'memory = 8 has no unit; did you mean "8 GiB"?'),
        ("[hardware.h]\nmemory = '8 gigs'\n", 'is not a size like "8 GiB"; units are B, KB'),
        ("[hardware.h]\nmemory = '0 GiB'\n", 'memory = "0 GiB" is no memory at all'),
        ("[hardware.h]\nmemory = []\n", "memory = [] is not a size"),
    ],
)
def test_wrong_site_or_hardware_is_explained(text, problem):
    """One example for each rule."""
    assert problem in complaint(GOOD + text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("question = { kind = 'audio' }", 'kind = "audio" is not allowed here; allowed is "image"'),
        ("question = { }", "[decision.obstacle.question] has no kind"),
        ("question = { kind = 'image', size = [320] }", "is not a width and a height"),
        (
            "question = { kind = 'image', mean = [1, 2] }",
            ("mean = [1, 2] holds 2 numbers; allowed is 1 number or 3, one a channel"),
        ),
        (
            "question = { kind = 'image', color = 'gray', std = [1, 2, 3] }",
            "allowed is 1 number, one a channel",
        ),
        ("question = { kind = 'image', std = [0.0] }", "0.0 is not above zero"),
        (
            "question = { kind = 'image', mean = ['a'] }",
            '"a" is a string; write the number without quotes',
        ),
        (
            "question = { kind = 'image', images = 0 }",
            "images = 0 is not a whole number from 1 to 16",
        ),
        (
            "question = { kind = 'image', fit = 'leterbox', size = [3, 2] }",
            'fit = "leterbox" is not allowed here; allowed is "stretch", "letterbox"; did you mean',
        ),
        (
            "question = { kind = 'image', fit = 'letterbox' }",
            'fit = "letterbox" has no size to fit; add size = [320, 320], or take it out',
        ),
        (
            "answer = { kind = 'mask', decoder = 'rows' }",
            'decoder = "rows" makes kind = "boxes" or "class", not "mask"',
        ),
        (
            "answer = { kind = 'class', decoder = 'row' }",
            'decoder = "row" is not allowed here; allowed is "nanodet", "defect-grid", "rows"; did',
        ),
        (
            "answer = { kind = 'mask', decoder = 'nanodet' }",
            'decoder = "nanodet" makes kind = "boxes", not "mask"',
        ),
        (
            "answer = { kind = 'boxes' }",
            'kind = "boxes" needs a decoder beside it; allowed is decoder = "nanodet", "def',
        ),
        ("answer = { kind = 'box' }", 'did you mean "boxes"?'),
        ("answer = { kind = 'mask', threshold = 2 }", "threshold = 2 is not a score from 0 to 1"),
        (
            "answer = { kind = 'class', labels = 'yes' }",
            'labels = "yes" is not a list of 1 to 10000 items',
        ),
    ],
)
def test_wrong_question_or_answer_is_explained(text, problem):
    """What the asker's side could not do is refused before anyone asks."""
    assert problem in complaint(GOOD + text)


def test_an_image_may_be_letterboxed_and_a_fused_answer_read(tmp_path):
    """What the lab writes into a bundle may stand in an estate as well."""
    (tmp_path / "tidsram.toml").write_text(
        GOOD
        + "question = { kind = 'image', size = [64, 48], fit = 'letterbox' }\n"
        + "answer = { kind = 'class', decoder = 'rows' }\n"
    )

    decision = load_estate(tmp_path / "tidsram.toml").decisions["obstacle"]

    assert decision.question == Question(kind="image", size=(64, 48), fit="letterbox")
    assert decision.answer == Answer(kind="class", decoder="rows")


def test_mean_and_std_count_the_channels_of_one_image():
    """Two colour images make six channels for the model, but each has the same three numbers."""
    text = "question = { kind = 'image', images = 2, mean = [1, 2, 3], std = [4, 5, 6] }"

    question = parse_estate(GOOD + text, "tidsram.toml").decisions["obstacle"].question

    assert question is not None
    assert (question.mean, question.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert "allowed is 1 number or 3" in complaint(GOOD + text.replace("[1, 2, 3]", "[1, 2]"))
    assert "allowed is 1 number or 3" in complaint(
        GOOD + text.replace("[1, 2, 3]", "[0, 0, 0, 0, 0, 0]")
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[estate\n",
            "tidsram.toml, line 1: Expected ']' at the end of a table declaration, at column 8",
        ),
        (
            "[estate]\nname = \n",
            "tidsram.toml, line 2: Invalid value, at column 8; this is not TOML",
        ),
        (
            '[estate]\nname = "a',
            "tidsram.toml, line 2: Unterminated string, at the end of the file",
        ),
        ('[estate]\nname="a"\nname="b"\n', "tidsram.toml, line 3: Cannot overwrite a value"),
        (f"{GOOD}x = {'9' * 5000}\n", "tidsram.toml: holds a number of more than 4300 digits"),
        (f"{GOOD}x = {'[' * 9000}\n", "tidsram.toml: is nested too deeply"),
    ],
)
def test_broken_toml_names_its_line(text, said):
    """Syntax errors say where; what would exhaust the parser is one sentence too."""
    assert complaint(text).startswith(said)


@pytest.mark.parametrize("part", ["z", '"z z"', " z "])
def test_deep_keys_do_not_exhaust_the_parser(part):
    """Its time for a dotted key grows with the square of its parts: a file of them takes days."""
    key = ".".join([part] * 20_000)

    said = complaint(f"{GOOD}{key} = 1\n")

    assert said == "tidsram.toml: is nested too deeply; an estate needs three levels"


def test_key_that_is_longer_than_any_name_is_cut_in_the_complaint():
    """A person reads one line of it."""
    assert len(complaint(f"{GOOD}{'z' * 1_000_000} = 1\n")) < 400


def test_deep_values_are_shown_without_recursion():
    """As deep as a key may be."""
    assert "is not a table of a decision" in complaint(f"{GOOD}z{'.z' * 19} = 1\n")


def test_huge_estate_is_refused_before_parsing(tmp_path):
    """Twice the limit of what would even be invalid TOML: only the size is complained about."""
    file = tmp_path / "tidsram.toml"
    file.write_bytes(b"[" * (MAX_ESTATE_BYTES + 1))

    with pytest.raises(EstateError, match="is larger than 10 MB"):
        load_estate(file)
    with pytest.raises(EstateError, match="is larger than 10 MB"):
        parse_estate("[" * (MAX_ESTATE_BYTES + 1), "tidsram.toml")


def test_file_that_is_not_utf8_names_its_line_and_byte(tmp_path):
    """A file saved in an old encoding."""
    file = tmp_path / "tidsram.toml"
    file.write_bytes(GOOD.encode() + "# gävle".encode("latin-1"))

    with pytest.raises(EstateError) as caught:
        load_estate(file)

    assert str(caught.value) == (
        f"{file}, line 6: byte 0xe4 is not UTF-8; save the file as UTF-8 text"
    )


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    """What Notepad writes is a good estate."""
    file = tmp_path / "tidsram.toml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())

    assert load_estate(file).name == "n"


def test_missing_file_names_the_remedy(tmp_path):
    """The first mistake of a new user."""
    with pytest.raises(EstateError, match="no such file; write one with `tidsram init`"):
        load_estate(tmp_path / "tidsram.toml")
    with pytest.raises(EstateError, match="cannot be read: Is a directory"):
        load_estate(tmp_path)


def test_quick_estate_has_one_decision_named_after_the_file(tmp_path):
    """`tidsram serve my.onnx --budget 20ms`, with what a file name may hold made valid."""
    estate = quick_estate(tmp_path / "my model (2).onnx", 20_000_000, shapes={"x": (1, 3)})

    assert estate == Estate(
        name="local",
        measured=".tidsram/measured",
        sites={"local": Site(name="local", unix=".tidsram/local.sock")},
        decisions={
            "my-model-2": Decision(
                name="my-model-2",
                ladder=(Variant(name="my model (2)", model=str(tmp_path / "my model (2).onnx")),),
                budget_ns=20_000_000,
                shapes={"x": (1, 3)},
            )
        },
    )


@pytest.mark.parametrize("stem", ["ååå", "..", "-", "模型"])
def test_quick_estate_of_a_nameless_file_is_called_model(tmp_path, stem):
    """Where nothing usable is left of the file's name."""
    assert list(quick_estate(tmp_path / f"{stem}.onnx", 1).decisions) == ["model"]


def test_quick_estate_refuses_what_a_file_could_not_say(tmp_path):
    """The command line is held to the rules of the estate file."""
    with pytest.raises(EstateError, match="--budget: 0 ns is not above zero"):
        quick_estate(tmp_path / "m.onnx", 0)
    with pytest.raises(EstateError, match=r"--http: .* is not host:port"):
        quick_estate(tmp_path / "m.onnx", 1, http="here")
    with pytest.raises(EstateError, match='--budget: "20" has no unit; did you mean "20 ms"'):
        read_option("--budget", values.duration, "20")


def test_model_file_is_read_or_refused_with_a_remedy(tmp_path):
    """A file, nothing, and a directory."""
    (tmp_path / "m.onnx").write_bytes(b"model")

    assert read_model(tmp_path / "m.onnx") == b"model"
    with pytest.raises(ModelRefused, match="there is no such file"):
        read_model(tmp_path / "other.onnx")
    with pytest.raises(ModelRefused, match="it is a directory, and not the file of one model"):
        read_model(tmp_path)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
KEYS = st.sampled_from(sorted({key for key in FULL.replace("=", " ").split() if key.isalpha()}))
VALUES = st.recursive(
    st.one_of(st.integers(-(2**63), 2**63), st.floats(), st.booleans(), TEXTS, KEYS, st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS | TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)


def toml(value) -> str:
    """Write any value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else str(value)


@st.composite
def damaged_estates(draw):
    """A good estate in which up to three values, keys or tables are replaced, added or removed."""
    document = copy.deepcopy(tomllib.loads(FULL))
    for _ in range(draw(st.integers(1, 3))):
        table = document
        while True:
            key = draw(st.sampled_from(sorted(table))) if table else draw(KEYS)
            inner = table.get(key)
            if not isinstance(inner, dict) or draw(st.booleans()):
                break
            table = inner
        match draw(st.sampled_from(["replace", "add", "remove"])):
            case "replace":
                table[key] = draw(VALUES)
            case "add":
                table[draw(KEYS | TEXTS)] = draw(VALUES)
            case "remove":
                table.pop(key, None)
    return "\n".join(f"{toml(key)} = {toml(value)}" for key, value in document.items())


def read(text: str) -> Estate | str:
    """Return the estate, or what was said about it; anything else that is raised comes out."""
    try:
        return parse_estate(text, "tidsram.toml")
    except EstateError as error:
        return str(error)


@settings(max_examples=300)
@given(damaged_estates())
def test_damaged_estate_is_read_or_refused_in_one_sentence(text):
    """Whatever is written where, nothing but an EstateError of one printable line comes out."""
    found = read(text)

    if isinstance(found, str):
        assert found.startswith("tidsram.toml")
        assert found.isprintable()
        assert len(found) < 600
    else:
        assert all(0 < d.budget_ns <= values.MAX_DURATION_NS for d in found.decisions.values())
        assert all(0 < d.objective < 1 for d in found.decisions.values())


@given(st.text(max_size=60), st.integers(0, len(FULL)))
def test_damaged_text_is_read_or_refused_in_one_sentence(noise, place):
    """The same for text that is no TOML at all."""
    found = read(FULL[:place] + noise + FULL[place:])

    assert isinstance(found, Estate) or found.startswith("tidsram.toml")
