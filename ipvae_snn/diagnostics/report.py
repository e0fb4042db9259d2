"""Findings and reports: the results of a diagnosis, and how they print."""

import textwrap
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """The result for one signature.

    Attributes:
        name: name of the signature.
        healthy: the verdict.
        figure: the measured number.
        text: the figure in words, with its unit and its healthy range.
        advice: what to do if it is not healthy.
        follows: name of the unhealthy finding that explains this one, else empty.
    """

    name: str
    healthy: bool
    figure: float
    text: str
    advice: str
    follows: str = ""

    @property
    def status(self) -> str:
        """``"ok"``, ``"follows"`` or ``"problem"``."""
        return "ok" if self.healthy else "follows" if self.follows else "problem"

    @property
    def explanation(self) -> str:
        """Cause or advice of an unhealthy finding, else empty."""
        if self.healthy:
            return ""
        return f"follows from: {self.follows}" if self.follows else self.advice


@dataclass(frozen=True)
class Report:
    """All findings on a model; prints them with problems first."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Unhealthy findings that no other one explains."""
        return tuple(f for f in self.findings if f.status == "problem")

    @property
    def healthy(self) -> bool:
        return not self.problems

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name, else ``KeyError``."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"no finding {name!r}: there are {[f.name for f in self.findings]}")

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """All findings as plain data, by name."""
        return {finding.name: asdict(finding) for finding in self.findings}

    def __str__(self) -> str:
        lines = []
        order = ("problem", "follows", "ok")
        for finding in sorted(self.findings, key=lambda finding: order.index(finding.status)):
            status = finding.status if finding.healthy else finding.status.upper()
            lines.append(f"{status:<8}{finding.name:<20}{finding.text}")
            if finding.explanation:
                lines.append(textwrap.indent(textwrap.fill(finding.explanation, 68), " " * 28))
        count = len(self.problems)
        lines.append("healthy" if not count else f"{count} problem{'s' if count > 1 else ''}")
        return "\n".join(lines)
