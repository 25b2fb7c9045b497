"""The run report: one self-contained page that shows what a run learned and how well. ``write_report(path, data)``."""

from ditkit.app.report.data import GuidancePoint, Metric, Neighbours, ReportData, Trajectory
from ditkit.app.report.page import render, write_report

__all__ = ["GuidancePoint", "Metric", "Neighbours", "ReportData", "Trajectory", "render", "write_report"]
