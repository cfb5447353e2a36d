"""Shared by all tests: fakes that Ray's workers can import, a CPU left to others, no clock on examples."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.helpers.drawn_data import write_tar
from tests.helpers.object_stores import Service, moto

torch.set_num_threads(1)
# A busy machine is slow, not wrong.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Undo what a program does to the log: its handler writes to a stderr that ends with the test."""
    root, ours = logging.getLogger(), [logging.getLogger(name) for name in ("sam_engine", "pipelines")]
    handlers, levels = root.handlers[:], [(logger, logger.level) for logger in (root, *ours)]
    yield
    root.handlers = [handler for handler in root.handlers if handler in handlers]
    for logger, level in levels:
        logger.setLevel(level)


@pytest.fixture(scope="session")
def drawn_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn images, ids 100 to 107, two masks each."""
    return write_tar(tmp_path_factory.mktemp("drawn") / "drawn.tar")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Service]:
    """A server that speaks S3, one for all tests."""
    with moto() as service:
        yield service


@pytest.fixture
def s3(s3_server: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The same, in the environment of this process and of those that it starts."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def bucket_url(s3: Service) -> str:
    """An empty bucket."""
    return f"s3://{s3.new_bucket()}"
