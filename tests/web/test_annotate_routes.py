"""The annotator's routes, asked over raw sockets: who may write, what is refused, what the answers are."""

import json
from pathlib import Path

import pytest

from sam_engine.dataset.correction_log import read_corrections
from tests.web.test_guard import ask, cookie, own

ACTS = "/api/annotate/images/0/acts"
GOOD = {"by": "Ada", "seen": 0, "act": "1" * 16, "lines": [{"operation": "delete", "mask_id": 0}]}


def post(served, path, body, *headers):
    """Send as the page would, unless headers say otherwise; return status and the answer's JSON."""
    given = headers or (
        cookie(served),
        f"Origin: http://127.0.0.1:{served.port}",
        "Content-Type: application/json",
    )
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = ask(served.port, f"POST {path} HTTP/1.1", own(served.port), *given, body=data)
    head, _, text = answer.partition(b"\r\n\r\n")
    return status, json.loads(text) if b"application/json" in head else text


def get(served, path):
    status, answer = ask(served.port, f"GET {path} HTTP/1.1", own(served.port), cookie(served))
    return status, json.loads(answer.split(b"\r\n\r\n")[1])


def said(served):
    return read_corrections(Path(served.dataset.store.describe()))


def test_pages_of_others_cannot_correct(annotated):
    """Cross-site requests, forms, requests without the cookie or by another name: none leaves a line."""
    page, written = cookie(annotated), "Content-Type: application/json"
    ours = f"Origin: http://127.0.0.1:{annotated.port}"
    attempts = {
        (ours, written): 401,
        (page, written): 403,
        (page, "Origin: http://evil.example", written): 403,
        (page, "Origin: null", written): 403,
        (page, f"Origin: https://127.0.0.1:{annotated.port}", written): 403,
        (page, f"Origin: http://127.0.0.1:{annotated.port}.evil.example", written): 403,
        (page, ours, "Content-Type: text/plain"): 403,
        (page, ours, "Content-Type: application/x-www-form-urlencoded"): 403,
        (page, ours, "Content-Type: multipart/form-data"): 403,
        ("Cookie: sam_engine=guess", ours, written): 401,
    }
    statuses = {headers: post(annotated, ACTS, GOOD, *headers)[0] for headers in attempts}
    other_name, _ = ask(annotated.port, f"POST {ACTS} HTTP/1.1", "Host: evil.example", page, ours, written)

    assert statuses == attempts
    assert other_name == 421
    assert 0 not in said(annotated)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_only_a_post_writes(annotated, method):
    """A link or a picture that names the route does nothing."""
    origin = f"Origin: http://127.0.0.1:{annotated.port}"
    headers = (own(annotated.port), cookie(annotated), origin, "Content-Type: application/json")
    body = json.dumps(GOOD).encode()
    status, _ = ask(annotated.port, f"{method} {ACTS} HTTP/1.1", *headers, body=body)

    assert status == 405
    assert 0 not in said(annotated)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"by":"\xff"}', 400),
        (json.dumps(GOOD | {"by": 5}).encode(), 400),
        (json.dumps(GOOD | {"lines": [{"operation": "delete", "mask_id": 999}]}).encode(), 404),
    ],
)
def test_what_is_no_act_is_refused_with_a_reason(annotated, body, status):
    """Nothing is written, and the answer says what was wrong."""
    found, answer = post(annotated, ACTS, body)

    assert found == status
    assert answer["error"]
    assert 0 not in said(annotated)


def test_a_body_that_is_too_long_is_not_read(annotated):
    """Its length in the head is enough."""
    written = (f"Origin: http://127.0.0.1:{annotated.port}", "Content-Type: application/json")
    head = (own(annotated.port), cookie(annotated), *written, f"Content-Length: {2**20 + 1}")
    status, _ = ask(annotated.port, f"POST {ACTS} HTTP/1.1", *head)

    assert status == 413


@pytest.mark.parametrize(
    "path",
    [
        "/api/annotate/images/-1/acts", "/api/annotate/images/99999999999999999999/acts",
        "/api/annotate/images/../../0/acts", "/api/annotate/images/0%2f..%2f1/acts",
        "/api/annotate/images/x/acts", "/api/annotate/images/4/acts",
        "/api/annotate/images/99/acts",
    ],
)  # fmt: skip
def test_only_annotated_images_of_the_dataset_take_acts(annotated, path):
    """Neither walks, nor ids of failed or missing images."""
    assert post(annotated, path, GOOD)[0] == 404
    assert 0 not in said(annotated)


def test_a_name_is_text_on_every_page(annotated):
    """Questions need the annotator's name; markup in it is refused or stays what it is."""
    for by in ("", "%00", "a%0d%0aSet-Cookie:x=1", "x" * 300):
        assert get(annotated, f"/api/annotate/images/0?by={by}")[0] == 400
    assert get(annotated, "/api/annotate/images/0?by=%3Cscript%3E")[0] == 200


def test_an_act_is_written_answered_and_reported(annotated):
    """The way of one correction; a second tab that has not seen it is told so, and told who was faster."""
    before = get(annotated, "/api/annotate/images/1?by=Ada")[1]
    first = before["masks"][0]["id"]
    lines = [{"operation": "accept", "mask_id": first}]
    written = GOOD | {"act": "2" * 16, "lines": lines, "time_s": 36, "stage": "review"}
    answer = post(annotated, ACTS.replace("/0/", "/1/"), written)
    late = post(annotated, ACTS.replace("/0/", "/1/"), written | {"act": "3" * 16, "by": "Ben"})
    [row] = get(annotated, "/api/annotate/report")[1]["work"]

    assert answer == (200, {"revision": 1, "exhaustive": False, "undo": "2" * 16, "redo": None})
    assert late == (409, {"error": "Ada changed this image meanwhile; it is shown anew"})
    assert (row["by"], row["accepted"], row["masks_per_hour"]) == ("Ada", 1, 100)
    assert get(annotated, "/api/annotate/images/1?by=Ben")[1]["masks"][0]["accepted"]
    assert get(annotated, "/api/annotate")[1]["num_corrected"] == 1
    following = get(annotated, "/api/annotate/next?by=Ada&order=name&after=0")[1]
    assert following == {"image_id": 2, "num_left": 4}  # Ben has 1


def test_a_full_disk_is_said(annotated, monkeypatch):
    """507 with the reason; the page keeps what it has and says it again."""
    before = said(annotated)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("sam_engine.storage.local._create_held", full)
        lines = [{"operation": "delete", "mask_id": 2 * 65536}]
        status, answer = post(annotated, ACTS.replace("/0/", "/2/"), GOOD | {"lines": lines})

    assert status == 507
    assert "No space left" in answer["error"]
    assert said(annotated) == before
