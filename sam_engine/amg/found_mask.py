"""One finished mask of an image. No torch."""

from dataclasses import dataclass

from sam_engine.ops.rle import Runs, area_of

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundMask:
    """One mask of an image, in full; frame: pixels of the image."""

    runs: Runs
    box_xyxy: Box
    """Inclusive pixel indices."""
    predicted_iou: float
    stability_score: float
    point_coords: tuple[tuple[float, float], ...]
    """The prompt: (x, y) of a point, or the top left and bottom right of a box."""
    crop_box: Box
    """XYXY of the crop that it was found in, right and bottom exclusive."""

    @property
    def area(self) -> int:
        """Pixels."""
        return area_of(self.runs)

    @property
    def bbox_xywh(self) -> Box:
        """SA-1B's box: W is ``x_max - x_min``."""
        return _xywh(self.box_xyxy)

    @property
    def crop_box_xywh(self) -> Box:
        """The crop, as SA-1B has it."""
        return _xywh(self.crop_box)


def _xywh(box_xyxy: Box) -> Box:
    """Return [x, y, x1 - x0, y1 - y0]."""
    left, top, right, bottom = box_xyxy
    return left, top, right - left, bottom - top
