"""`python -m tests.conformance.write_kernels`: writes docs/kernels.md and its counts anew, by
compiling our kernels for Ascend and running what is made on this CPU."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.ascend import kernels_page, toolchain

if __name__ == "__main__":
    try:
        toolchain.set_up()
    except toolchain.MissingError as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory() as folder:
        kernels_page.write(toolchain.prove(Path(folder), "1"))
