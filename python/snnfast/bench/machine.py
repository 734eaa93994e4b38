# SPDX-License-Identifier: Apache-2.0
"""Where and with what a figure was measured: every result file says so."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from snnfast.info import info


def provenance() -> dict[str, Any]:
    """The machine, the versions and the time, as JSON values."""
    return {"measured": datetime.now(timezone.utc).isoformat(timespec="seconds"), "machine": info()}
