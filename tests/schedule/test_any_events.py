"""Any sequence of events, also such as no simulation would bring: late timers, sudden losses."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tidsram.estate.types import Criticality
from tidsram.schedule.estimate import Estimate
from tidsram.schedule.scheduler import Policy
from tidsram.testing import PROBE, FixedEstimate, Shell
from tidsram.units import MS, SECOND

NAMES, BOUNDS_NS, LANES = ("a", "b", "c"), (5 * MS, 12 * MS, 30 * MS), 2
FASTER_NS = {"a": (), "b": (6 * MS,), "c": (15 * MS, 5 * MS)}  # variants down the ladder
PICK, TRIAL = st.integers(0, 99), "~trial"


class AnyEvents(RuleBasedStateMachine):
    """The shell checks every action as it carries it out; here events come in any order."""

    @initialize(
        criticalities=st.tuples(*[st.sampled_from(list(Criticality))] * len(NAMES)),
        newest=st.booleans(),
        rate=st.sampled_from([0.0, 5.0, 100.0]),
        estimate=st.sampled_from([Estimate, FixedEstimate]),
    )
    def open(self, criticalities, newest, rate, estimate):
        queue = "newest" if newest else "edf"
        policies = [
            Policy(name, criticality, queue=queue, rate=rate, burst=2)
            for name, criticality in zip(NAMES, criticalities, strict=True)
        ]
        self.node = Shell(*policies, lanes=LANES, estimate=estimate)
        for name, bound_ns in zip(NAMES, BOUNDS_NS, strict=True):
            for lane in range(LANES):
                self.node.ready(name, bound_ns, lane=lane, faster_ns=FASTER_NS[name])

    @rule(
        name=st.sampled_from(NAMES),
        budget_ns=st.integers(1, 200).map(lambda ms: ms * MS),
        lowered=st.integers(0, 2),
        priority=st.integers(1, 2),
        asker=st.sampled_from(["", "x", "y"]),
        stream=st.sampled_from(["", "", "left", "right"]),
    )
    def ask(self, name, budget_ns, lowered, priority, asker, stream):
        asks = {"lowered": lowered, "priority": priority, "asker": asker, "stream": stream}
        self.node.ask(name, budget_ns, **asks)

    @rule(after_ns=st.sampled_from([1, MS, 7 * MS, 40 * MS, 2 * SECOND]))
    def wait(self, after_ns):
        self.node.wait_until(self.node.now_ns + after_ns)

    @rule(after_ns=st.sampled_from([MS, 40 * MS]))
    def wait_without_a_timer(self, after_ns):
        self.node.now_ns += after_ns

    @rule()
    def tick(self):
        self.node.tick()

    @precondition(lambda self: any((*self.node.runs.values(), *self.node.aside.values())))
    @rule(pick=PICK, ok=st.booleans(), ran_ns=st.sampled_from([1, 4 * MS, 20 * MS]))
    def run_ends(self, pick, ok, ran_ns):
        busy = [(lane, jobs[0]) for (lane, _), jobs in self.node.runs.items() if jobs]
        busy += [(lane, jobs[0]) for (_, lane), jobs in self.node.aside.items() if jobs]
        lane, job = busy[pick % len(busy)]
        if job.job_id == PROBE:
            self.node.probe_ended(job.decision, ran_ns, lane)
        elif ok:
            self.node.end(job.job_id, started_ns=self.node.now_ns - ran_ns)
        else:
            self.node.fail(job.job_id)

    @precondition(lambda self: self.node.up)
    @rule(pick=PICK)
    def lose(self, pick):
        up = sorted(self.node.up)
        self.node.lose(*up[pick % len(up)])

    @rule(name=st.sampled_from(NAMES), lane=st.integers(0, LANES - 1), faster=st.booleans())
    def replace(self, name, lane, faster):
        if (name, lane) not in self.node.heirs:
            bound_ns = BOUNDS_NS[NAMES.index(name)]
            faster_ns = (MS, MS) if faster else ()
            self.node.replace(name, bound_ns, lane=lane, faster_ns=faster_ns)

    @precondition(lambda self: self.node.heirs)
    @rule(pick=PICK)
    def lose_heir(self, pick):
        heirs = sorted(self.node.heirs)
        self.node.lose_heir(*heirs[pick % len(heirs)])

    @property
    def trials(self):
        """Return the workers that are on trial."""
        return sorted(place for place in self.node.up if place[0].endswith(TRIAL))

    @rule(name=st.sampled_from(NAMES), lane=st.integers(0, LANES - 1))
    def try_version(self, name, lane):
        trial = name + TRIAL
        self.node.try_version(name, trial)
        if (trial, lane) not in self.node.up:
            self.node.ready(trial, BOUNDS_NS[NAMES.index(name)] // 2, lane=lane)

    @precondition(lambda self: self.trials)
    @rule(pick=PICK)
    def withdraw(self, pick):
        trials = self.trials
        self.node.withdraw(*trials[pick % len(trials)])

    @precondition(lambda self: self.trials)
    @rule(
        pick=PICK,
        budget_ns=st.integers(1, 200).map(lambda ms: ms * MS),
        stream=st.sampled_from(["", "left"]),
    )
    def ask_a_trial(self, pick, budget_ns, stream):
        trials = self.trials
        self.node.ask(trials[pick % len(trials)][0], budget_ns, stream=stream)

    @precondition(lambda self: len(self.node.up) < len(NAMES) * LANES)
    @rule(pick=PICK)
    def restart(self, pick):
        every = {(name, lane) for name in NAMES for lane in range(LANES)}
        down = sorted(every - self.node.up)
        if not down:  # all that are up beside these are on trial
            return
        name, lane = down[pick % len(down)]
        bound_ns = BOUNDS_NS[NAMES.index(name)]
        self.node.ready(name, bound_ns, lane=lane, faster_ns=FASTER_NS[name])

    @precondition(lambda self: self.node.jobs)
    @rule(pick=PICK)
    def leave(self, pick):
        self.node.leave(pick % len(self.node.jobs))

    @rule(name=st.sampled_from(NAMES), lane=st.integers(0, LANES - 1))
    def spare(self, name, lane):
        assert self.node.scheduler.spared(self.node.now_ns, name, lane) == []

    @rule(really=PICK)
    def drain(self, really):
        if really == 0:
            self.node.drain()

    @invariant()
    def queues_are_in_order_and_wait_behind_a_run(self):
        for lane in self.node.scheduler._lanes:
            levels = lane.levels
            for level in levels:
                keys = [placed.urgency for placed in level.queue]
                assert keys == sorted(keys)
                assert level.running is not None or level.deck is None
                strangers = [p for p in level.queue if p.rank != p.worker.rank]
                assert len(strangers) == level.strangers
                for placed in level.queue:
                    between = levels[placed.worker.rank : placed.rank + 1]
                    runs = [other.running for other in between if other.running is not None]
                    assert runs or placed.worker.stuck is not None

    @invariant()
    def next_wake_is_not_after_any_open_deadline(self):
        open_ns = [j.deadline_ns for n, j in self.node.jobs.items() if n not in self.node.reasons]
        wake_ns = self.node.scheduler.next_wake_ns

        assert not open_ns or (wake_ns is not None and wake_ns <= min(open_ns))

    @invariant()
    def idle_means_that_nothing_is_open(self):
        open_numbers = self.node.jobs.keys() - self.node.reasons.keys()
        every = (*self.node.runs.values(), *self.node.aside.values())
        running = [job for jobs in every for job in jobs if job.job_id != PROBE]

        assert self.node.scheduler.idle == (not open_numbers and not running)

    def teardown(self):
        """Let everything come to its end: nothing is left without an outcome."""
        if not hasattr(self, "node"):
            return
        while self.node.up:  # an heir takes the place of one that is lost
            self.node.lose(*min(self.node.up))
        self.node.wait_until(self.node.now_ns + SECOND)

        assert self.node.jobs.keys() == self.node.reasons.keys()
        assert self.node.scheduler.idle
        assert self.node.scheduler.next_wake_ns is None


TestAnyEvents = AnyEvents.TestCase
TestAnyEvents.settings = settings(stateful_step_count=80)
