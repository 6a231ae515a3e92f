"""What was found odd in a dataset, how often, where, and what training does about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

EXAMPLES_KEPT = 5  # enough to look one up, short enough for one line


@dataclasses.dataclass
class Finding:
    """One kind of fault: `severity` is "dropped", "repaired" or "note"; `action` says what training does about it."""

    kind: str
    severity: str
    action: str
    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        where = f" ({', '.join(self.examples)}{more})" if self.examples else ""
        return f"{self.severity}: {self.count} x {self.kind}{where}: {self.action}"


class Report:
    """Findings by kind, in the order in which they were first met."""

    def __init__(self) -> None:
        self._findings: dict[str, Finding] = {}

    def add(self, kind: str, *, severity: str, action: str, where: Iterable[object], what: str = "annotation") -> None:
        """Count one occurrence for each of `where` (ids or file names). Nothing to count adds nothing."""
        for item in where:
            finding = self._findings.setdefault(kind, Finding(kind, severity, action))
            finding.count += 1
            if len(finding.examples) < EXAMPLES_KEPT:
                finding.examples.append(f"{what} {item}")

    @property
    def findings(self) -> list[Finding]:
        return list(self._findings.values())

    def count(self, kind: str) -> int:
        return self._findings[kind].count if kind in self._findings else 0

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "nothing odd found"
