# SPDX-License-Identifier: Apache-2.0
"""A conversion or a sweep as a page for people: one HTML file that needs nothing else, and its pictures as files.

The page says the key figures first, then shows where they come from. Pictures are part of the file; it loads nothing,
runs nothing, and follows the reader's choice of a light or dark screen.
"""

from snnfast.report.conversions import write_report
from snnfast.report.page import PAGE
from snnfast.report.sweeps import write_sweep_report

__all__ = ["PAGE", "write_report", "write_sweep_report"]
