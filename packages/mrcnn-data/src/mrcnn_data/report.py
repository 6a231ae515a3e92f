"""What is odd in a dataset, how often, where, and what training and scoring do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from mrcnn_data.errors import DatasetError

ERRORS_NAMED = 3  # of different kinds, in the one line that stops training
EXAMPLES_SHOWN = 5  # enough to look one up, short enough for one line
EXAMPLES_KEPT = 1000  # for JSON; a million annotations may share a fault
STOPS_TRAINING = "training refuses the file until this is repaired"  # what an error does
SEVERITIES = ("error", "warning", "dropped", "repaired", "note")  # the worst first


@dataclasses.dataclass
class Finding:
    """One kind of fault.

    Attributes:
        kind: its name.
        severity: "error" (training refuses the file), "warning" (used as it is, but probably not what is meant),
            "dropped" (objects, parts or images are not used), "repaired" (used as `action` says), or "note" (used as it
            is).
        action: what training and scoring do about it.
        count: how often it occurs.
        examples: the first annotations or images, at most `EXAMPLES_KEPT`.
        message: of an error, the first occurrence in one line.
        leaves_box_only: objects with it have no usable mask.
    """

    kind: str
    severity: str
    action: str
    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)
    message: str = ""
    leaves_box_only: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether its line shows only some of the occurrences."""
        return self.count > EXAMPLES_SHOWN

    def __str__(self) -> str:
        shown = self.examples[:EXAMPLES_SHOWN] + ["..."] * self.is_cut
        where = f" ({', '.join(shown)})" if self.examples else ""
        return f"{self.severity}: {self.count} x {self.kind}{where}: {self.action}"


class Report:
    """Findings by kind, in the order in which they were found."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self._findings: dict[str, Finding] = {finding.kind: finding for finding in findings}

    def add(
        self,
        kind: str,
        *,
        severity: str,
        action: str,
        where: Sequence[object],
        what: str = "annotation",
        message: str = "",
        leaves_box_only: bool = False,
    ) -> None:
        """Count one occurrence for each of `where` (ids or file names); an empty `where` adds nothing."""
        if not len(where):
            return
        finding = self._findings.setdefault(
            kind, Finding(kind, severity, action, message=message, leaves_box_only=leaves_box_only)
        )
        finding.count += len(where)
        room = EXAMPLES_KEPT - len(finding.examples)
        finding.examples += [f"{what} {item}" for item in where[: max(room, 0)]]

    def merge(self, other: Report, *, source: str = "") -> None:
        """Add the findings of another report; `source` names it in the examples."""
        for theirs in other.findings:
            ours = self._findings.setdefault(theirs.kind, dataclasses.replace(theirs, count=0, examples=[]))
            ours.count += theirs.count
            examples = [f"{example} of {source}" if source else example for example in theirs.examples]
            ours.examples = (ours.examples + examples)[:EXAMPLES_KEPT]

    @property
    def findings(self) -> list[Finding]:
        return list(self._findings.values())

    def by_severity(self, *severities: str) -> list[Finding]:
        """List findings, the worst first (see `SEVERITIES`): all, or of some severities only."""
        found = [finding for finding in self.findings if finding.severity in (severities or SEVERITIES)]
        return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))

    def count(self, kind: str) -> int:
        return self._findings[kind].count if kind in self._findings else 0

    @property
    def exit_code(self) -> int:
        """0 for nothing, or notes only; 1 for warnings, or if something is dropped or repaired; 2 for errors."""
        if self.by_severity("error"):
            return 2
        return 1 if self.by_severity("warning", "dropped", "repaired") else 0

    def raise_errors(self) -> None:
        """Raise DatasetError, naming the first error of each kind, where there are any."""
        errors = self.by_severity("error")
        if errors:
            named = errors[:ERRORS_NAMED]
            more = sum(finding.count for finding in errors) - len(named)
            told = "; ".join(finding.message for finding in named)
            raise DatasetError(told + (f", and {more} more (mrcnn-data check lists them)" if more else ""))

    def raise_first_error(self) -> None:
        """Raise DatasetError about the first error, if there is one: nothing is left to read."""
        errors = self.by_severity("error")
        if errors:
            raise DatasetError(errors[0].message)

    def as_records(self) -> list[dict[str, Any]]:
        """Return the findings as plain dicts, for JSON."""
        return [dataclasses.asdict(finding) for finding in self.findings]

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "nothing odd found"
