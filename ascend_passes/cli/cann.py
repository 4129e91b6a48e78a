"""Where CANN is on this machine, and its versions."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

CANN_FOLDERS = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
"""Variables that CANN's `set_env.sh` sets to the folder of the toolkit."""
CANN_DEFAULT = "/usr/local/Ascend/ascend-toolkit/latest"
HCCL_LIBRARY = ("libhccl.so", "*/libhccl.so", "*/*/libhccl.so", "*/*/*/libhccl.so")
HCCL_VERSION = ("hccl/version.info", "*/hccl/version.info", "*/*/hccl/version.info")
"""Where they may be below the toolkit; a search of any depth would not end below `/`."""
MOST_CHARACTERS = 65536
"""Of a version file that are read."""
VERSION_LINE = re.compile(r"^\s*version\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)


def cann_folder() -> Path | None:
    """The CANN toolkit: where its variables point, or its usual place."""
    found = (os.environ.get(variable) for variable in CANN_FOLDERS)
    folder = Path(next(filter(None, found), CANN_DEFAULT))
    return folder if folder.is_dir() else None


def cann_version() -> str | None:
    """Version of the CANN toolkit, `unknown` where its version file is not there."""
    folder = cann_folder()
    return (
        None
        if folder is None
        else file_version(files_below(folder, ("*/ascend_toolkit_install.info",)))
    )


def hccl_version() -> str | None:
    """Version of HCCL, the collectives' library; it comes with CANN."""
    folder = cann_folder()
    if folder is None or not files_below(folder, HCCL_LIBRARY):
        return None
    return file_version(files_below(folder, HCCL_VERSION))


def files_below(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files of some patterns below a folder; none where it cannot be looked into."""
    with contextlib.suppress(OSError):
        return [path for pattern in patterns for path in folder.glob(pattern)]
    return []


def file_version(files: Any) -> str:
    """The first `Version=` line of some files."""
    for file in files:
        if not file.is_file():
            continue
        with contextlib.suppress(OSError), file.open(errors="replace") as text:
            match = VERSION_LINE.search(text.read(MOST_CHARACTERS))
            if match:
                return match[1]
    return "unknown"
