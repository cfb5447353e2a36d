"""Files of the corpus, decoded or refused, for tests."""

import numpy as np
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images.decode import decode_image
from tests.corpus.image_corpus import (
    cases,
)

DEFAULT = DecodeConfig()


def decode(name: str, **settings: object) -> np.ndarray:
    return decode_image(cases()[name].data, DecodeConfig(**settings)).pixels


def failure(data: bytes, **settings: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, DecodeConfig(**settings))
    return caught.value
