# SPDX-License-Identifier: Apache-2.0
"""``python -m snnfast`` is the command ``snnfast``."""

from snnfast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
