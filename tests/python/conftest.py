"""Tests run on the build that PYTHONPATH names (see `make test`)."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)
    yield


def pytest_configure(config):
    # Small tensors: a second thread costs more than it gives, above all beside other processes.
    torch.set_num_threads(1)


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
