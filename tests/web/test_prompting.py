"""The routes of prompting, asked as pages and as attackers would."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from sam_engine.modeling.embedding_file import embedding_from_bytes
from sam_engine.predictor import SamPredictor
from sam_engine.web.prompt_images import UPLOAD, UploadedImages
from tests.web.test_guard import ask, cookie, own

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def photo():
    """Smooth blobs, (90, 140, 3), and the PNG of them."""
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 255, (6, 9, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((140, 90), Image.Resampling.BICUBIC))
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return pixels, data.getvalue()


@pytest.fixture(scope="module")
def predictor(served):
    return SamPredictor(served.viewer.prompting.model.model)


def request(served, line, *, body=b"", raw=b"", kind="application/octet-stream", headers=()):
    """Status and body of an answer to one of our pages; ``raw`` follows the head as it is."""
    ours = [
        own(served.port),
        cookie(served),
        f"Origin: http://127.0.0.1:{served.port}",
        f"Content-Type: {kind}",
    ]
    status, answer = ask(served.port, f"{line} HTTP/1.1", *ours, *headers, body=body, raw=raw)
    return status, answer.split(b"\r\n\r\n", 1)[1]


def upload(served, data, name="a.png"):
    return request(served, f"POST /api/prompting/uploads?name={name}", body=data)


def predict(served, ref, **prompt):
    return request(
        served,
        f"POST /api/prompting/{ref}/predict",
        body=json.dumps(prompt).encode(),
        kind="application/json",
    )


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height):
    """A small PNG that says it has so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2**20), 9)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_prompt_gives_what_the_predictor_gives(served, photo, predictor):
    """For a click, a box with points, and a mask to refine: up to the embedding's rounding to half."""
    pixels, data = photo
    ref = json.loads(upload(served, data)[1])["ref"]
    predictor.set_image(pixels)
    points, labels, box = [[60.0, 40.0], [30.0, 70.0]], [1, 0], [20.0, 10.0, 120.0, 80.0]
    _, _, previous = predictor.predict(np.array(points[:1]), np.array([1]))
    refined = base64.b64encode(previous[2].tobytes()).decode()
    given = np.array(points), np.array(labels)
    cases = [
        ({"points": points[:1], "labels": [1]}, (given[0][:1], given[1][:1], None, None)),
        ({"points": points, "labels": labels, "box": box}, (*given, np.array(box), None)),
        ({"points": points, "labels": labels, "previous": refined}, (*given, None, previous[2:3])),
    ]
    for number, (prompt, arguments) in enumerate(cases):
        status, answer = predict(served, ref, **prompt)
        found = load(answer)
        expected = [
            predictor.predict(*arguments, multimask_output=kind)
            for kind in ((False, True) if number else (True,))
        ]
        logits = np.concatenate([low_res for _, _, low_res in expected])
        scores = np.concatenate([predicted for _, predicted, _ in expected])

        assert status == 200
        assert found["iou_predictions"] == pytest.approx(scores, abs=0.01)
        assert np.abs(found["low_res_masks"] - logits).max() < 0.5  # of some tens
        assert ((found["low_res_masks"] > 0) == (logits > 0)).mean() > 0.995


def test_an_embedding_is_made_once(served, photo, monkeypatch):
    """The second page that asks gets the same bytes, of the cache: nothing is encoded."""
    ref = json.loads(upload(served, photo[1])[1])["ref"]
    _, first = request(served, f"GET /api/prompting/{ref}/embedding")
    monkeypatch.setattr(served.viewer.prompting.model.model, "encode", None)
    status, again = request(served, f"GET /api/prompting/{ref}/embedding")

    assert status == 200
    assert first == again
    assert embedding_from_bytes(again).original_size == (90, 140)


def test_the_next_image_is_encoded_ahead(served):
    """It is in the cache soon after a page has said what comes next."""
    model, image = served.viewer.prompting.model, served.viewer.prompting.images.find("2")
    (model.cache.folder / model.key_of(image).file_name).unlink(missing_ok=True)  # of a test before
    status, _ = request(served, "POST /api/prompting/images/2/ahead", body=b"{}", kind="application/json")
    model._next.result(timeout=60)

    assert status == 202
    assert model.cache.get(model.key_of(image)) is not None


def test_everything_is_found(served, photo):
    """Masks come in SA-1B's fields, of the image's size."""
    ref = json.loads(upload(served, photo[1])[1])["ref"]
    status, answer = request(served, f"GET /api/prompting/{ref}/everything")

    assert status == 200
    assert all(mask["segmentation"]["size"] == [90, 140] for mask in json.loads(answer)["masks"])


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (bomb(60_000, 60_000), 413, "too_large"),
        (bomb(2**31 - 1, 2**31 - 1), 413, "too_large"),
        (bomb(9000, 9000), 413, "more than decode.max_pixels"),
        (bomb(7000, 7000), 422, "cannot fill"),
        (b"<svg onload=alert(1)>", 422, "unsupported"),
        (b"", 422, "empty"),
    ],
)
def test_what_is_no_image_or_too_much_is_refused(served, data, status, words):
    """By its header where that will do; nothing of it is kept."""
    found, answer = upload(served, data)

    assert (found, words in json.loads(answer)["error"]) == (status, True)


def test_a_file_beyond_the_limit_is_not_read(served):
    """The head says how long it is, and that is enough."""
    limit = served.viewer.prompting.uploads.config.max_file_bytes
    status, _ = request(served, "POST /api/prompting/uploads", headers=[f"Content-Length: {limit + 1}"])

    assert status == 413


def test_a_body_without_a_length_is_cut_at_the_limit(served):
    """One that comes in chunks is read so far and no farther."""
    body = b"100000\r\n" + b" " * 2**20 + b"\r\n1\r\n \r\n0\r\n\r\n"
    line, headers = "POST /api/prompting/images/1/predict", ["Transfer-Encoding: chunked"]
    status, _ = request(served, line, kind="application/json", headers=headers, raw=body)

    assert status == 413


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"points": [[1, 2]]},
        {"points": [[1, 2]], "labels": [2]},
        {"points": [[1, 2]], "labels": [True]},
        {"points": [[1, "2"]], "labels": [1]},
        {"points": [[1, 10**400]], "labels": [1]},
        {"points": [[1, float("nan")]], "labels": [1]},
        {"points": [[1, 2, 3]], "labels": [1]},
        {"points": [[1, 2]] * 1001, "labels": [1] * 1001},
        {"box": [1, 2, 3]},
        {"box": [9, 9, 1, 1]},
        {"points": [[1, 2]], "labels": [1], "previous": "AAAA"},
        {"points": [[1, 2]], "labels": [1], "previous": "AAAAAA=="},
        {"points": [[1, 2]], "labels": [1], "previous": 7},
        {"points": [[1, 2]], "labels": [1], "previous": "@@"},
    ],
)
def test_a_malformed_prompt_is_named(served, prompt):
    """400 and one line, not a trace."""
    status, answer = predict(served, "images/1", **prompt)

    assert status == 400
    assert json.loads(answer)["error"]


@pytest.mark.parametrize(
    "path",
    [
        "images/99", "images/-1", "images/4", "images/%D9%A3", "uploads/0", "uploads/..%2f..%2fetc%2fpasswd",
        "x/1", "decoder/other.onnx", "decoder/..%2fimage.onnx",
    ],
)  # fmt: skip
def test_what_is_not_there_is_404(served, path):
    """Image 4 has no pixels; nothing walks out of the folders."""
    suffix = "" if path.startswith("decoder") else "/embedding"

    assert request(served, f"GET /api/prompting/{path}{suffix}")[0] == 404
    assert request(served, "GET /runtime/..%2f..%2fetc%2fpasswd")[0] == 404
    assert request(served, "GET /runtime/LICENSE")[0] == 404


def test_old_uploads_are_forgotten(photo):
    """What is kept has a limit; the newest stays."""
    data = photo[1]
    uploads = UploadedImages(UPLOAD, kept_bytes=len(data) + 1)
    try:
        first = uploads.add(data, "a").sha256
        second = uploads.add(data + b"\0", "b").sha256

        assert uploads.find(first) is None
        assert uploads.find(second).name == "b"
    finally:
        uploads.close()
