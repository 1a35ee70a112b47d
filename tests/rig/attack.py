"""One command under one fault, judged; then the next command, which must reach a whole state."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.rig import points
from tests.rig.judge import Case, Finding, View, judge, view
from tests.rig.place import Place
from tests.rig.trace import Done, Fault
from tests.rig.tree import differences, digest


class Scenario(NamedTuple):
    """``verb`` runs on the image ``start`` and brings it to the state ``goal``.

    With ``killed``, that command first runs on ``start`` and is killed at that call: then the recovery is attacked.
    """

    name: str
    start: str
    verb: tuple[str, ...]
    goal: str
    killed: tuple[tuple[str, ...], Fault] | None = None
    force: bool = False

    @property
    def image(self) -> str:
        return f"killed-{self.name}" if self.killed else self.start


def _killed(name: str, start: str, killed: str, at: Fault, verb: str) -> Scenario:
    goal = "new" if verb == "apply" else "pristine"
    return Scenario(name, start, (verb,), goal, ((killed,), at))


#: The kills: while files are staged, between two replacements, and after the last one.
SCENARIOS = [
    Scenario("apply", "pristine", ("apply",), "new"),
    Scenario("rollback", "new", ("rollback",), "pristine"),
    Scenario("update", "old", ("apply",), "new"),
    Scenario("rollback-force", "edited", ("rollback", "--force"), "pristine", force=True),
    Scenario("apply-again", "new", ("apply",), "new"),
    _killed("apply-after-killed-apply", "pristine", "apply", Fault("rename", 6, "SIGKILL"), "apply"),
    _killed("rollback-after-killed-apply", "pristine", "apply", Fault("fsync", 9, "SIGKILL"), "rollback"),
    _killed("rollback-after-killed-rollback", "new", "rollback", Fault("rename", 7, "SIGKILL"), "rollback"),
    _killed("apply-after-killed-rollback", "new", "rollback", Fault("rmdir", 1, "SIGKILL"), "apply"),
    _killed("apply-after-killed-update", "old", "apply", Fault("rename", 9, "SIGKILL"), "apply"),
    _killed("rollback-after-killed-update", "old", "apply", Fault("unlink", 2, "SIGKILL"), "rollback"),
]


@dataclass
class Report:
    """The findings for one fault."""

    scenario: str
    fault: Fault
    next_verb: str
    arrived: bool
    findings: list[Finding] = field(default_factory=list)
    code: int = 0
    said: str = ""

    def __str__(self) -> str:
        lines = [f"{self.scenario} {self.fault} -> exit {self.code}, then {self.next_verb}"]
        lines += [f"    {kind}: {text}" for kind, text in self.findings]
        lines += [f"    | {line}" for line in self.said.splitlines()[:14]]
        return "\n".join(lines)


class Attack:
    """A scenario at a place: its start, its clean run, and the result of each fault."""

    def __init__(self, place: Place, scenario: Scenario) -> None:
        self.place, self.scenario = place, scenario
        verb = [*scenario.verb, *(place.save_to() if scenario.force else [])]
        self.command = place.command(verb)
        self.json_command = place.command(verb, as_json=True)
        if scenario.killed is not None and not place.image(scenario.image).exists():
            place.start(scenario.start)
            killed, at = scenario.killed
            done = place.run(place.command(killed), at)
            assert done.code == -9, f"{scenario.name}: was not killed at {at}\n{done.out}{done.err}"
            place.keep(scenario.image)
        place.start(scenario.image)
        self.before, self.others = view(place), place.others()
        self.case = Case(place, scenario.goal, (scenario.start, scenario.goal))
        #: The findings of the next command, by command and tree.
        self._known: dict[tuple[str, str], list[Finding]] = {}

    def clean(self) -> Done:
        """Run the scenario without a fault."""
        self.place.start(self.scenario.image)
        done = self.place.run(self.command, counted=True)
        assert done.code == 0, f"{self.scenario.name}: {done.code}\n{done.out}{done.err}"
        return done

    def faults(self) -> list[Fault]:
        return points.every(self.clean().calls)

    def run(self, fault: Fault, next_verb: str = "apply", *, as_json: bool = False) -> Report:
        """Run the scenario with ``fault``, then the command that it prints, or ``next_verb`` if it prints none."""
        place = self.place
        place.start(self.scenario.image)
        done = place.run(self.json_command if as_json else self.command, fault)
        after = view(place)
        report = Report(
            self.scenario.name, fault, next_verb, bool(done.faulted), judge(self.case, self.before, done, after)
        )
        report.code, report.said = done.code, f"{done.err}{done.out if as_json or not done.err else ''}"
        report.findings += self._others("the run")
        if self.scenario.force:
            report.next_verb = " ".join(self.scenario.verb)
        report.findings += self._next(report, done, after)
        return report

    def _others(self, who: str) -> list[Finding]:
        return [Finding("outside", f"{who}: {line}") for line in differences(self.others, self.place.others())]

    def _next(self, report: Report, done: Done, after: View) -> list[Finding]:
        place = self.place
        command, goal = self.command, self.scenario.goal
        if not self.scenario.force:
            printed = printed_command(f"{done.err}{done.out}")
            if printed is not None:
                report.next_verb = printed[3]
            command = printed or place.command([report.next_verb])
            goal = "new" if report.next_verb == "apply" else "pristine"
        key = (report.next_verb, digest(after.tree))
        if key in self._known:
            return self._known[key]
        done = place.run(command)
        reached = view(place)
        findings = []
        if done.code != 0:
            findings.append(Finding("dead-end", f"{report.next_verb} exits {done.code}: {done.err or done.out}"))
        elif not reached.whole or reached.state != goal:
            off = list(reached.passing) or [reached.state or "mixed"]
            findings.append(Finding("dead-end", f"{report.next_verb} exits 0, but the tree is not {goal}: {off}"))
        later = judge(Case(place, goal, self.case.states), after, done, reached)
        findings += [Finding(kind, f"then {report.next_verb}: {text}") for kind, text in later]
        findings += self._others(f"then {report.next_verb}")
        self._known[key] = findings
        return findings


def printed_command(text: str) -> list[str] | None:
    """Return the first complete command line that a run prints as the next one, unchanged; None if there is none.

    Only smoke checks are turned off, since the package is a fake.
    """
    match = re.search(r"`(gaudi-patch (apply|rollback) --[^`]+)`", text)
    if match is None:
        return None
    command = [sys.executable, "-m", "gaudi_patch", *shlex.split(match[1])[1:]]
    return [*command, "--no-smoke"] if match[2] == "apply" and "--no-smoke" not in command else command
