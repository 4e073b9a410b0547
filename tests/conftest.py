"""Settings that all tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """The networks of tests are too small to share between threads; one thread is faster and always sums alike."""
    import torch

    torch.set_num_threads(1)
