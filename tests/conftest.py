"""Settings that all tests share."""

from __future__ import annotations

import os

import pytest

# Read by Ray when it is imported: what tests start listens on this machine only.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """The networks of tests are too small to share between threads; one thread is faster and always sums alike."""
    import torch

    torch.set_num_threads(1)
