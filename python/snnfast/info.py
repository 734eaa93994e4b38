# SPDX-License-Identifier: Apache-2.0
"""What was built and what runs here, for a user who wonders and for every bug report."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from snnfast import backends
from snnfast._version import __version__

_LIBRARIES = ("torch", "numpy", "gymnasium", "safetensors", "matplotlib")


def versions(*names: str) -> dict[str, str]:
    """Versions of "snnfast", "python" and of libraries, by name, for files to say what they were made with.

    What is not installed is left out.
    """
    found = {}
    for name in names:
        if name == "snnfast":
            found[name] = __version__
        elif name == "python":
            found[name] = platform.python_version()
        else:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def info() -> dict[str, Any]:
    """Versions, machine, backends and instruction sets, as plain JSON types.

    ``backends`` maps every backend to ``None`` if it runs here and else to the reason why not.
    """
    core = backends.core_info()
    return {
        "snnfast": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backends": {name: reason or None for name, reason in backends.available().items()},
        "isa": core.get("isa"),
        "supported_isas": core.get("supported_isas", []),
        "threads": core.get("threads"),
        "compiler": core.get("compiler"),
        "environment": {name: os.environ.get(name) for name in ("SNNFAST_ISA", "SNNFAST_NUM_THREADS")},
        "libraries": {name: versions(name).get(name) for name in _LIBRARIES},
    }


def format_info(facts: dict[str, Any]) -> str:
    """The same for people."""
    isas = ", ".join(facts["supported_isas"]) or "none"
    rows = [
        ("snnfast", f"{facts['snnfast']}, built with {facts['compiler']}"),
        ("python", f"{facts['python']} on {facts['platform']}"),
        ("processor", f"{facts['processor']}, {facts['cores']} cores to use"),
        ("instruction set", f"{facts['isa']} (this machine runs {isas})"),
        ("threads", str(facts["threads"])),
        *((f"backend {name}", "available" if why is None else why) for name, why in facts["backends"].items()),
        *((name, version or "not installed") for name, version in facts["libraries"].items()),
        *((name, value) for name, value in facts["environment"].items() if value is not None),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)
