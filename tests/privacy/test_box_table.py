"""Tables of boxes: what is read, and which cell an error names."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.errors import ConfigError
from sam_engine.privacy.box_table import read_boxes

HEAD = "file_name,x,y,width,height\n"


def written(tmp_path, text):
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    return str(path)


def test_boxes_of_a_csv_are_found_by_name(tmp_path):
    """Several an image, in their order; other columns are passed over; a name of digits stays one."""
    table = read_boxes(
        written(
            tmp_path,
            "score,file_name,x,y,width,height\n.9,007,1,2,3,4\n.8,b.jpg,0,0,9,9\n.7,007,-5,6,7.5,8\n",
        )
    )

    assert table.of(b"007", (20, 20)).tolist() == [[1, 2, 3, 4], [-5, 6, 7.5, 8]]
    assert table.of(b"c.jpg", (20, 20)).shape == (0, 4)


def test_boxes_of_parquet_are_found_by_name(tmp_path):
    """Names as text or bytes, numbers of any type."""
    columns = {
        "file_name": [b"\xff.jpg"],
        "x": [1],
        "y": np.float32([2]),
        "width": [3.5],
        "height": np.int8([4]),
    }
    pq.write_table(pa.table(columns), tmp_path / "boxes.parquet")
    table = read_boxes(str(tmp_path / "boxes.parquet"))

    assert table.of(b"\xff.jpg", (20, 20)).tolist() == [[1, 2, 3.5, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "a.jpg,1,2,3,4\na.jpg,1,zwei,3,4\n", r"row 2, column y: 'zwei' is no number"),
        (HEAD + "a.jpg,1,2,3,\n", r"row 1, column height: '' is no number"),
        (HEAD + "a.jpg,nan,2,3,4\n", r"row 1, column x: 'nan' is no number"),
        (HEAD + "a.jpg,1,2,0,4\n", r"row 1, column width: 0 is no size; wanted is a number above 0"),
        (HEAD + ",1,2,3,4\n", r"row 1, column file_name: '' names no image"),
        (HEAD, r"holds no boxes"),
        ("file_name,x0,y0,x1,y1\na,1,2,3,4\n", r"has columns file_name, x0, y0, x1, y1; wanted is a .csv"),
        ("", r"cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    """File, row and column, counted from the first row below the header."""
    with pytest.raises(ConfigError, match=message):
        read_boxes(written(tmp_path, text))


def test_other_files_are_refused(tmp_path):
    """The error says what would do."""
    with pytest.raises(ConfigError, match=r"boxes is 'boxes.txt'; wanted is a .csv or .parquet table"):
        read_boxes("boxes.txt")


def test_a_box_outside_of_its_image_is_refused(tmp_path):
    """It was meant for other pixels, such as those of the image before it was turned upright."""
    table = read_boxes(written(tmp_path, HEAD + "a.jpg,30,2,3,4\n"))

    with pytest.raises(
        ConfigError, match=r"a\.jpg is 20 x 40 pixels upright, and the box .*'x': 30.* outside"
    ):
        table.of(b"a.jpg", (40, 20))


def test_names_that_are_no_images_are_told(tmp_path):
    """Some of them in a note; all of them are an error."""
    table = read_boxes(written(tmp_path, HEAD + "a.jpg,1,2,3,4\nb.jpg,1,2,3,4\n"))

    assert table.notes([b"a.jpg", b"b.jpg", b"c.jpg"]) == []
    assert table.notes([b"a.jpg"]) == ["1 names in boxes are no images here, the first b.jpg"]
    with pytest.raises(
        ConfigError, match=r"none of its 2 names is an image of the dataset: the first is a\.jpg"
    ):
        table.notes([b"c.jpg"])
