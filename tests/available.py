"""Optional parts of a test machine: a test without them is skipped; CI has all, there it fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

IN_CI = os.environ.get("CI") == "true"
STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260k"
BITNET_STORIES = STORIES.with_name("bitnet-stories-3m")


def needs(there: object, what: object) -> pytest.MarkDecorator:
    """Marks a test that needs `what`, which is `there` or not."""
    return pytest.mark.skipif(not there and not IN_CI, reason=f"needs {what}")


def missing(what: str) -> NoReturn:
    """Skip the running test for want of `what`; in CI, fail."""
    if IN_CI:
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"there is no {what} here")


needs_stories = needs(STORIES.is_dir(), STORIES)
