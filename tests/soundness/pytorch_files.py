"""PyTorch's own test files, compiled by `ascend_dense` and by `aot_eager`.

    python -m tests.soundness.pytorch_files FILE ... [-k EXPRESSION]

FILE is one of a checkout of the installed version of PyTorch, such as `test/dynamo/test_repros.py`;
torch's wheel does not hold them. Prints what fails with `ascend_dense` alone, and a table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
TOLD = 1500
"""Characters of a failure's text, from its end."""


def outcomes(backend: str, file: Path, words: list[str]) -> dict[str, str]:
    """Test -> how it failed; "" where it passed. Those that were skipped are left out.

    Raises:
        SystemExit: pytest could not read the file.
    """
    with tempfile.TemporaryDirectory(prefix="pytorch-files-") as folder:
        table = Path(folder) / "outcomes.xml"
        plugin = ["-p", "tests.soundness.swapped_backend", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-q", *plugin, f"--junitxml={table}", file.name]
        said = subprocess.run(
            [*command, *words],
            cwd=file.parent,
            env={**os.environ, "SWAPPED_BACKEND": backend, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if said.returncode not in (0, 1):
            raise SystemExit(f"pytest ends {file} with {said.returncode}:\n{said.stdout[-TOLD:]}")
        return told(table)


def told(table: Path) -> dict[str, str]:
    """What a JUnit file says of each test, as in `outcomes`."""
    found = {}
    for case in ElementTree.parse(table).iter("testcase"):
        if case.find("skipped") is not None:
            continue
        failed = [part for name in ("failure", "error") for part in case.findall(name)]
        text = "\n".join((part.text or part.get("message") or "failed") for part in failed)
        found[f"{case.get('classname')}.{case.get('name')}"] = text
    return found


def main(files: list[Path], words: list[str]) -> int:
    """Run the files; 1 where a test fails with `ascend_dense` alone."""
    rows, only_ours = [], 0
    for file in files:
        theirs, ours = (outcomes(name, file, words) for name in ("aot_eager", "ascend_dense"))
        wrong = [name for name, text in ours.items() if text and theirs.get(name) == ""]
        for name in wrong:
            print(f"{name}\n{ours[name][-TOLD:]}\n")
        only_ours += len(wrong)
        failed = sum(map(bool, theirs.values()))
        rows.append(f"{file.name:<28}{len(theirs):>7}{failed:>18}{len(wrong):>11}")
    print(f"{'file':<28}{'tests':>7}{'aot_eager fails':>18}{'only ours':>11}", *rows, sep="\n")
    return 1 if only_ours else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=lambda word: Path(word).resolve(strict=True))
    parser.add_argument("-k", default="", help="as pytest's")
    given = parser.parse_args()
    sys.exit(main(given.files, ["-k", given.k] if given.k else []))
