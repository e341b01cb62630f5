"""What a person reads in the terminal while the demo runs. Says only what was measured."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tidsram.demo import results
from tidsram.demo.askers import Asked, Course
from tidsram.demo.material import Accuracy
from tidsram.demo.results import show_ms, show_share
from tidsram.estate.types import Decision
from tidsram.outcome import Outcome
from tidsram.units import MS, SECOND, US, show_ns

_FRAMES_A_ROW = 10
_GOOD, _BAD, _QUIET = "green", "bold red", "dim"
_VERDICT = {"met": _GOOD, "contradicted": _BAD, "not enough evidence": "yellow"}


class Telling:
    """Tells the story on `console`; progress goes to `progress_console`."""

    def __init__(
        self, console: Console, progress_console: Console, decisions: Mapping[str, Decision]
    ) -> None:
        self._console, self._progress = console, progress_console
        self._decisions = decisions
        self._lock = threading.Lock()

    def say(self, text: str | Text = "", style: str = "") -> None:
        """Print a line, whole words only."""
        with self._lock:
            self._console.print(text, style=style, highlight=False)

    def heading(self, title: str, *sentences: str) -> None:
        """Open a part of the story."""
        self.say()
        self.say(title, "bold")
        for sentence in sentences:
            self.say(sentence)

    def start(self, machine: str, estate_file: Path, seconds: int) -> None:
        """Say what will happen and where."""
        names = ", ".join(self._decisions)
        self.say(Text.assemble(("tidsram demo", "bold"), f" · one node, its decisions: {names}"))
        self.say(f"This machine: {machine}.")
        self.say(
            f"{seconds} s as declared in {estate_file}, then three acts. Pictures are decoded and "
            "prepared, and answers read, inside the measured time."
        )
        self.say("The tissue model is an example of a load and not for diagnosis.", _QUIET)

    def ready(self, ready_ns: int) -> None:
        """Say that the node runs."""
        self.say(f"The node was ready after {show_ns(ready_ns)}.")

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[Asked], None]]:
        """Show a bar while the questions of the quiet time come back."""
        columns = (
            TextColumn("asking"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._progress, transient=True) as progress:
            task = progress.add_task("", total=total)
            yield lambda _: progress.advance(task)

    def quiet_time(
        self,
        asked: Sequence[Asked],
        tallies: Mapping[str, results.Tally],
        room_ns: Mapping[str, int],
    ) -> None:
        """Say how the quiet time went: outcomes, verdicts, accuracy, where the time goes."""
        self.heading("As declared")
        self._print(_outcome_table(tallies))
        if any(tally.p99_us is None for tally in tallies.values()):
            self.say("– : too few answers to claim this percentile at 99 % confidence.", _QUIET)
        for name, tally in tallies.items():
            self.say(_verdict_line(name, tally))
        self.heading("Where the time goes, on average")
        self._print(_stage_table(tallies))
        began = sorted(one.began_ns - one.arose_ns for one in asked)
        rooms = ", ".join(f"{name} {show_ns(room)}" for name, room in room_ns.items())
        self.say(
            f"The askers themselves began {show_ns(began[len(began) // 2])} late in the middle, "
            f"{show_ns(began[-1])} at worst; that counts as prepare. Of each budget they keep "
            f"for reading the answer: {rooms}.",
            _QUIET,
        )

    def act_burst(
        self, victim: str, pace: str, capacity: float, offered: float, length_ns: int
    ) -> None:
        """Open act 1."""
        self.heading(
            "Act 1 · A burst",
            f"For {show_ns(length_ns)}, {victim} is asked {offered:.0f} times a second where "
            f"{capacity:.0f} runs a second fill the lane: {offered / capacity:.1f} ×. "
            "One line a camera frame:",
        )
        self.say(frame_header(pace, victim), _QUIET)

    def burst(self, told: results.Burst) -> None:
        """Close act 1."""
        asked = (
            f"Of {told.asked} {told.decision} questions in the burst {told.answered} were answered"
        )
        if told.answered_p50_us is not None:
            asked += f", in the middle after {show_ms(told.answered_p50_us)} ms"
        asked += f" ({told.late} late)" if told.late else ", none late"
        refused = f"; {told.rejected} were refused"
        if told.rejected_p50_us is not None:
            refused += f", in the middle {show_ms(told.rejected_p50_us)} ms after being asked"
        others = f"; {told.missed} missed, {told.failed} failed."
        self.say(asked + refused + others)
        self.say(_others_line(told.others))

    def act_kill(self, victim: str, pace: str, pid: int, at_once: int) -> None:
        """Open act 2."""
        self.heading(
            "Act 2 · A worker dies",
            f"{at_once} {victim} questions are asked at once, and then the worker that runs them "
            f"(process {pid}) is killed with -9. One line a camera frame:",
        )
        self.say(frame_header(pace, victim), _QUIET)

    def kill(self, decision: str, pid: int) -> None:
        """Say that the worker has just been killed."""
        self.say(f"          kill -9 {pid}: the worker of {decision} is gone", "bold")

    def back(self, decision: str, after_ns: int) -> None:
        """Say that the worker has been replaced."""
        self.say(f"          {decision} is ready again after {show_ns(after_ns)}", "bold")

    def killed(self, told: results.Kill) -> None:
        """Close act 2."""
        self.say(f"In flight at the kill: {len(told.in_flight)}.")
        for number, one in enumerate(told.in_flight, 1):
            style = _GOOD if one.in_time else ""
            self.say(f"  {number}  {_fate(one)}", style)
        if told.back_after_us is None:
            self.say(f"{told.decision} was not ready again while we watched.", _BAD)
        else:
            meanwhile = _counted(told.meanwhile) or "none asked"
            back = f"Back after {show_ms(told.back_after_us)} ms."
            self.say(f"{back} Asked while it was away: {meanwhile}.")
        self.say(_others_line(told.others))

    def act_cloud(self, pace: str) -> None:
        """Open act 3."""
        self.heading(
            "Act 3 · The same questions to a cloud",
            "The same node answers, with the round trip to a cloud's region added. "
            f"What {pace} takes, frame by frame, in ms ('!' is late, 'x' no answer):",
        )

    def place(
        self, place: str, round_trip_ns: int, decision: str, budget_ns: int
    ) -> Callable[[Asked], None]:
        """Return the teller of one place's frames."""
        self.say(f"  {place}" + (f", {show_ns(round_trip_ns)} away" if round_trip_ns else ""))
        row: list[str] = []

        def tell(one: Asked) -> None:
            if one.decision != decision:
                return
            row.append(_in_one_word(one, budget_ns))
            if len(row) % _FRAMES_A_ROW == 0:
                self.say("    " + " ".join(f"{word:>5}" for word in row[-_FRAMES_A_ROW:]))

        return tell

    def cloud(self, told: results.Cloud) -> None:
        """Close act 3: shares in time, side by side."""
        table = _table("in time", "budget", *told.round_trips_us)
        for name, places in told.shares.items():
            cells = []
            for place, share in places.items():
                cell = Text(f"{show_share(share.share)}", _GOOD if share.share == 1 else "")
                median_us = told.p50_us[name][place]
                cells.append(cell.append(f"  {show_ms(median_us)} ms" if median_us else "", _QUIET))
            table.add_row(name, show_ns(self._decisions[name].budget_ns), *cells)
        self._print(table)
        self.say("Beside each share the median response of what was answered.", _QUIET)

    def frames(self, courses: Sequence[Course], pace: str, counted: str) -> Callable[[Asked], None]:
        """Return a teller that says one line for each of `pace`'s questions, when it is known.

        Beside it stands what became of the `counted` questions that arose until the next frame.
        """
        return _FrameLines(courses, pace, counted, self._decisions, self.say).tell

    def keep(self, url: str) -> None:
        """Say that the node stays, and how to ask it."""
        self.say()
        self.say(f"The node goes on at {url} until Ctrl-C; ask it: tidsram ask … --url {url}")

    def end(self, told: results.Results, out: Path, files: Sequence[Path]) -> None:
        """Say where things are and what the verdict is."""
        self.heading("The end")
        self.say(f"The page with everything: {out / 'report.html'}")
        self.say("Pictures: " + ", ".join(str(file.name) for file in files))
        if told.ok:
            self.say("No objective is contradicted.", _GOOD)
        else:
            names = [n for n, tally in told.decisions.items() if tally.verdict == "contradicted"]
            self.say(f"Contradicted at 99 %: {', '.join(names)}.", _BAD)

    def _print(self, table: Table) -> None:
        with self._lock:
            self._console.print(table)


class _FrameLines:
    """Gathers outcomes by frame; a frame's line is said when all before and in it is known."""

    def __init__(
        self,
        courses: Sequence[Course],
        pace: str,
        counted: str,
        decisions: Mapping[str, Decision],
        say: Callable[[str | Text], None],
    ) -> None:
        self._frames = next(course.arises_ns for course in courses if course.decision == pace)
        self._pace, self._counted, self._say = pace, counted, say
        self._decisions = decisions
        self._open = Counter(
            self._frame(at_ns)
            for course in courses
            if course.decision in (pace, counted)
            for at_ns in course.arises_ns
        )
        self._known: dict[int, list[Asked]] = {}
        self._next = 0

    def tell(self, one: Asked) -> None:
        """Take one outcome; say the lines that are complete now."""
        if one.decision not in (self._pace, self._counted):
            return
        frame = self._frame(one.arose_ns)
        self._known.setdefault(frame, []).append(one)
        self._open[frame] -= 1
        while self._next < len(self._frames) and self._open[self._next] == 0:
            self._say(self._line(self._next))
            self._next += 1

    def _frame(self, at_ns: int) -> int:
        """Return the frame during which something arose; what comes before the first is its."""
        gap_ns = self._frames[1] - self._frames[0]
        return max(0, min(len(self._frames) - 1, (at_ns - self._frames[0]) // gap_ns))

    def _line(self, frame: int) -> Text:
        known = self._known[frame]
        own = next(one for one in known if one.decision == self._pace)
        budget_ns = self._decisions[self._pace].budget_ns
        line = Text(f"  {(own.arose_ns - self._frames[0]) / SECOND:4.1f} s  ")
        style = _GOOD if own.in_time(budget_ns) else _BAD
        line.append(f"{_told(own, budget_ns):<21}", style)
        return line.append(_group([one for one in known if one.decision == self._counted]))


def frame_header(pace: str, counted: str) -> str:
    """Return the line above the lines of frames."""
    return f"  {'time':>6}  {pace:<21}{counted:>6}  {'answered':<15}{'refused':<18}other"


def _group(asked: Sequence[Asked]) -> str:
    """Say what became of a few questions, in columns."""
    if not asked:
        return ""
    answered = [one.took_ns for one in asked if one.outcome is Outcome.ANSWERED]
    rejected = sorted(
        one.replied_ns - one.sent_ns for one in asked if one.outcome is Outcome.REJECTED
    )
    rest = Counter(
        one.outcome.value
        for one in asked
        if one.outcome not in (Outcome.ANSWERED, Outcome.REJECTED)
    )
    in_ms = f"{len(answered)} in ≤ {show_ms(max(answered) // US)} ms" if answered else ""
    after = rejected[len(rejected) // 2] // US if rejected else 0
    after_ms = f"{len(rejected)} after {show_ms(after)} ms" if rejected else ""
    return f"{len(asked):>6}  {in_ms:<15}{after_ms:<18}{_counted(rest)}".rstrip()


def _told(one: Asked, budget_ns: int) -> str:
    if one.outcome is Outcome.ANSWERED:
        return f"{show_ms(one.took_ns // US)} ms" + ("" if one.took_ns <= budget_ns else ", late")
    return f"{one.outcome.value} {one.reason.value}"


def _in_one_word(one: Asked, budget_ns: int) -> str:
    if one.outcome is not Outcome.ANSWERED:
        return "x"
    return f"{one.took_ns / MS:.0f}" + ("!" if one.took_ns > budget_ns else "")


def _fate(one: results.InFlight) -> str:
    reason = f" ({one.reason})" if one.reason else ""
    return f"{one.outcome.value}{reason}, {show_ms(one.after_us)} ms after the kill"


def _others_line(others: Mapping[str, results.Share]) -> str:
    told = ", ".join(f"{name} {s.in_time} of {s.asked}" for name, s in others.items())
    return f"Meanwhile in time: {told}."


def _verdict_line(name: str, tally: results.Tally) -> Text:
    line = Text(f"{name}: objective {show_share(tally.objective)} in time, ")
    line.append(tally.verdict, _VERDICT[tally.verdict])
    return line.append(f" at 99 %. {accuracy_sentence(tally.accuracy)}")


def accuracy_sentence(accuracy: Accuracy) -> str:
    """Say how right the answers were."""
    names = {"recall": "recall", "precision": "precision", "iou": "overlap (IoU)"}
    told = ", ".join(
        f"{names[name]} {value:.3f}"
        for name, value in accuracy.measures.items()
        if value is not None
    )
    return f"Against {accuracy.against}: {told or 'nothing to compare'}."


def _outcome_table(tallies: Mapping[str, results.Tally]) -> Table:
    table = _table(
        *("decision", "asked", "in time", "late", "refused", "missed", "failed"),
        *("p50", "p99", "budget"),
    )
    for name, tally in tallies.items():
        counts = (tally.late, tally.rejected, tally.missed, tally.failed)
        table.add_row(
            name,
            str(tally.asked),
            show_share(tally.in_time_share),
            *(Text(str(count), _BAD if count else _QUIET) for count in counts),
            f"{show_ms(tally.p50_us)} ms" if tally.p50_us else "–",
            f"{show_ms(tally.p99_us)} ms" if tally.p99_us else "–",
            f"{show_ms(tally.budget_us)} ms",
        )
    return table


def _stage_table(tallies: Mapping[str, results.Tally]) -> Table:
    table = _table("ms", *tallies)
    for stage in results.STAGES:
        cells = (f"{tally.stages_us.get(stage, 0) / 1000:.2f}" for tally in tallies.values())
        table.add_row(stage, *cells)
    sums = (f"{sum(tally.stages_us.values()) / 1000:.2f}" for tally in tallies.values())
    table.add_row("together", *sums, style="bold")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _counted(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
