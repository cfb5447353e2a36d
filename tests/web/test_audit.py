"""Judging a sample in the browser: who may say what, and what the page shows of it."""

import shutil

import pytest

from sam_engine.dataset.audit import MISSING_PREFIX, draw_sample, read_missing
from sam_engine.dataset.reader import open_dataset
from sam_engine.web.annotating import Annotating
from sam_engine.web.app import Viewer, make_app
from sam_engine.web.audit_routes import Audit
from tests.web.conftest import serving
from tests.web.test_annotate_routes import get, post
from tests.web.test_guard import ask, cookie, own, paths_of


@pytest.fixture(scope="module")
def audited(dataset, tmp_path_factory):
    """A copy of the dataset of which two images were drawn."""
    root = tmp_path_factory.mktemp("audited") / "out"
    shutil.copytree(dataset.store.describe(), root)
    copy = open_dataset(root)
    sample = draw_sample(copy, num_images=2, seed=0)
    viewer = Viewer(copy)
    viewer.audit = Audit(
        dataset=copy,
        places=viewer.places,
        sample=sample,
        annotating=Annotating(copy, viewer.places),
        name="Ada",
    )
    with serving(viewer) as made:
        yield made


def missing_path(image_id):
    return f"/api/audit/images/{image_id}/missing"


def written_in(audited):
    """All that was said of missing things."""
    return audited.dataset.store.list(MISSING_PREFIX)


def test_every_route_needs_the_token_and_writing_our_own_page(audited):
    """The whole table is walked; another origin, a form's type and a lost cookie write nothing."""
    before = written_in(audited)
    paths = [path for path in paths_of(make_app(audited.viewer).routes) if path != "/static"]
    statuses = {path: ask(audited.port, f"GET {path} HTTP/1.1", own(audited.port))[0] for path in paths}
    image_id = audited.viewer.audit.sample.image_ids[0]
    body, line = b'{"by": "Ada", "missing": 1}', f"POST {missing_path(image_id)} HTTP/1.1"
    ours, written = f"Origin: http://127.0.0.1:{audited.port}", "Content-Type: application/json"
    attempts = [
        (ours, written),
        (cookie(audited), written),
        (cookie(audited), "Origin: http://evil.example", written),
        (cookie(audited), ours, "Content-Type: text/plain"),
    ]
    refused = [ask(audited.port, line, own(audited.port), *headers, body=body)[0] for headers in attempts]

    assert {"/api/audit", "/api/audit/report", missing_path(0)} <= set(paths)
    assert set(statuses.values()) == {401}
    assert refused == [401, 403, 403, 403]
    assert written_in(audited) == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"by": "Ada", "missing": -1}, 400),
        ({"by": "Ada", "missing": "1"}, 400),
        ({"by": "Ada", "missing": True}, 400),
        ({"by": "", "missing": 1}, 400),
        ({"by": {"a": 1}, "missing": 1}, 400),
        ([1], 400),
        (b"{", 400),
    ],
)
def test_what_says_nothing_is_refused(audited, body, status):
    """In words, and without a trace."""
    image_id, before = audited.viewer.audit.sample.image_ids[0], written_in(audited)

    assert post(audited, missing_path(image_id), body)[0] == status
    assert written_in(audited) == before


def test_an_image_that_was_not_drawn_is_not_judged(audited):
    """Nor one that there is not."""
    other = next(i for i in range(4) if i not in audited.viewer.audit.sample.image_ids)
    for image_id in (other, 99):
        status, answer = post(audited, missing_path(image_id), {"by": "Ada", "missing": 1})

        assert status == 404
        assert "is not in the sample" in answer["error"]


def test_a_judged_image_is_shown_and_reported_as_such(audited, watched_page):
    """By the page: its row, its count, the summary; a link leads to where its masks are mended."""
    page, (first, second) = watched_page, audited.viewer.audit.sample.image_ids
    page.goto(f"{audited.url}#/audit")
    row = page.locator(f"tr[data-image='{second}']")
    row.wait_for()
    row.locator("input").fill("3")
    row.get_by_role("button").click()
    page.wait_for_selector(f"tr[data-image='{second}'][data-judged=true]")
    report = get(audited, "/api/audit/report")[1]

    assert page.locator("tr[data-judged=false]").count() == 1
    assert page.locator(f"tr[data-image='{first}'] a").get_attribute("href") == f"#/annotate/{first}"
    assert page.inner_text("#audit-summary").startswith("1 of 2 images judged")
    assert read_missing(audited.dataset.store) == {second: 3}
    assert report["exhaustiveness"]["missing"] == 3
    assert page.complaints == []
