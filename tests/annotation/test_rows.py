"""From found masks to a row's annotations."""

import numpy as np

from sam_engine.amg.found_mask import FoundMask
from sam_engine.annotation.rows import annotation_of
from sam_engine.ops.rle import encode_mask, mask_to_runs


def test_boxes_are_converted_to_xywh_of_inclusive_indices():
    """The width is x_max - x_min; the crop's right and bottom are exclusive already."""
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:35] = True
    found = FoundMask(
        runs=mask_to_runs(mask),
        box_xyxy=(30, 10, 34, 19),
        predicted_iou=0.5,
        stability_score=0.75,
        point_coords=((31.5, 12.5),),
        crop_box=(20, 0, 60, 40),
    )

    annotation = annotation_of(found, (40, 60))

    assert (annotation.bbox, annotation.crop_box) == ((30, 10, 4, 9), (20, 0, 40, 40))
    assert (annotation.area, annotation.size) == (50, (40, 60))
    assert annotation.counts == encode_mask(mask)
    assert annotation.point_coords == ((31.5, 12.5),)
