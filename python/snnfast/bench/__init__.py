# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: ``snnfast bench``. Each one checks the results first and times second."""
