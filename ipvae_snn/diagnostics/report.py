"""What a diagnosis says, and how it is printed."""

import textwrap
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the signature.
        healthy: the verdict.
        figure: what was measured, a number.
        text: the figure in words, with its unit and what is healthy.
        advice: what to do if it is not healthy.
        follows: name of the unhealthy finding that explains this one; empty where none does.
    """

    name: str
    healthy: bool
    figure: float
    text: str
    advice: str
    follows: str = ""


@dataclass(frozen=True)
class Report:
    """All findings on a model; printing it shows them, problems first."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is not healthy, and does not merely follow from something else that is not."""
        return tuple(f for f in self.findings if not f.healthy and not f.follows)

    @property
    def healthy(self) -> bool:
        return not self.problems

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name; ``KeyError`` if there is none."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"no finding {name!r}: there are {[f.name for f in self.findings]}")

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data, by name."""
        return {finding.name: asdict(finding) for finding in self.findings}

    def __str__(self) -> str:
        lines = []
        for finding in sorted(self.findings, key=_rank):
            mark = "ok" if finding.healthy else "FOLLOWS" if finding.follows else "PROBLEM"
            lines.append(f"{mark:<8}{finding.name:<20}{finding.text}")
            if not finding.healthy:
                said = f"follows from: {finding.follows}" if finding.follows else finding.advice
                lines.append(textwrap.indent(textwrap.fill(said, 68), " " * 28))
        count = len(self.problems)
        lines.append("healthy" if not count else f"{count} problem{'s' if count > 1 else ''}")
        return "\n".join(lines)


def _rank(finding: Finding) -> int:
    return 2 if finding.healthy else 1 if finding.follows else 0
