"""Comparison with ``segment_anything`` 1.0: the package, importable where torchvision is missing."""

from types import ModuleType

import pytest

from sam_engine.errors import ConfigError
from tools.reference import import_segment_anything


@pytest.fixture(scope="session")
def segment_anything() -> ModuleType:
    """The reference package; tests are skipped where it is not installed."""
    try:
        return import_segment_anything()
    except ConfigError as error:
        pytest.skip(str(error))
