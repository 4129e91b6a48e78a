"""`python -m tests.conformance.write_table`: writes docs/conformance.md anew."""

from __future__ import annotations

import subprocess
import sys

from tests.conformance import build

if __name__ == "__main__":
    module = "tests.conformance.inside.table"
    raise SystemExit(
        subprocess.run(
            [sys.executable, "-m", module], env=build.environment(), cwd=build.ROOT, check=False
        ).returncode
    )
