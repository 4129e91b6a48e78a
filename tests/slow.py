"""What takes minutes and says little that other tests do not: run with ASCEND_PASSES_SLOW=1."""

from __future__ import annotations

import os

import pytest

VARIABLE = "ASCEND_PASSES_SLOW"
ASKED = bool(os.environ.get(VARIABLE))
slow = pytest.mark.skipif(not ASKED, reason=f"minutes: {VARIABLE}=1")
