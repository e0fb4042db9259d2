"""``report.html``: a run as one self-contained HTML page."""

from ipvae_snn.runs.report.page import write_report

__all__ = ["write_report"]
