"""``report.html``: a run as one page that needs nothing but a browser."""

from ipvae_snn.runs.report.page import write_report

__all__ = ["write_report"]
