"""What an image must be that is given to the library."""

import numpy as np
from numpy.typing import NDArray


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise `ValueError` unless this is an (H, W, 3) uint8 array with pixels."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"the image is a {type(image).__name__}; wanted is an (H, W, 3) uint8 numpy array")  # noqa: TRY004
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        hint = (
            "; convert grey and transparent images to RGB first"
            if image.ndim in (2, 3) and image.size
            else ""
        )
        raise ValueError(f"the image has shape {image.shape}; wanted is (H, W, 3){hint}")
    if image.dtype != np.uint8:
        raise ValueError(f"the image is {image.dtype}; wanted is uint8 with values from 0 to 255")
