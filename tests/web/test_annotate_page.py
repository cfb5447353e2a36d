"""The page "Annotate" in headless Chromium: what hands do there is what the log says, and lasts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.corrections import Operation, Stage, apply_corrections, in_force, is_exhaustive
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.rewrite.operations import apply_corrections_of
from sam_engine.dataset.rewrite.parents import open_parent
from sam_engine.formats.open import open_source
from sam_engine.ops.rle import decode_counts, encode_mask, mask_to_runs
from sam_engine.web.app import Viewer
from tests.web.conftest import serving

SIZES = [(120 + number, 160) for number in range(4)]
"""(H, W) of the images, in order of their ids."""


@pytest.fixture
def page(watched_page, annotated):
    """A page that is let in."""
    watched_page.goto(annotated.url)
    watched_page.evaluate("sessionStorage.clear()")
    return watched_page


def open_image(page, served, image_id, **settings):
    """Go to an image of a tab with these settings, and wait until it is shown."""
    page.goto(f"http://127.0.0.1:{served.port}/#/statistics")
    for name, value in settings.items():
        page.evaluate(f"sessionStorage.setItem('annotate {name}', '{value}')")
    page.goto(f"http://127.0.0.1:{served.port}/#/annotate/{image_id}")
    wait_for_image(page, image_id)


def wait_for_image(page, image_id):
    """Wait until an image is shown, and of a size."""
    page.wait_for_function(
        "(id) => document.querySelector(`.annotate[data-image='${id}'] canvas`)?.width > 300",
        arg=image_id,
        polling=50,  # a page in the background draws nothing
    )


def wait_saved(page):
    page.wait_for_function("() => document.querySelector('#saving').textContent === 'saved'", polling=50)


def at(page, image_id, x, y):
    """Where on the page a pixel of an image lies."""
    height, width = SIZES[image_id]
    box = page.locator(".annotate .stage").bounding_box()
    scale = min(box["width"] / width, box["height"] / height)
    left = box["x"] + (box["width"] - width * scale) / 2
    top = box["y"] + (box["height"] - height * scale) / 2
    return left + (x + 0.5) * scale, top + (y + 0.5) * scale


def drag(page, image_id, start, end):
    page.mouse.move(*at(page, image_id, *start))
    page.mouse.down()
    page.mouse.move(*at(page, image_id, *end), steps=4)
    page.mouse.up()


def log_of(served, image_id):
    return read_corrections(Path(served.dataset.store.describe())).get(image_id, [])


def masks_of(served, image_id):
    """The masks of an image as people left them, decoded."""
    record = served.viewer.places.find(image_id)
    left = apply_corrections(record, log_of(served, image_id))
    return [decode_counts(mask.counts, mask.size) for mask in left]


def test_a_session_from_the_first_stroke_to_training(page, annotated, tmp_path):
    """Assisted-manual, semi-automatic, the log, a new version of the dataset, what training reads of it."""
    open_image(page, annotated, 0, stage="manual", order="name")
    shown_before = page.inner_text("#summary")
    page.keyboard.press("b")
    drag(page, 0, (40, 60), (100, 60))
    page.keyboard.press("Enter")
    wait_saved(page)
    page.keyboard.press("v")
    page.mouse.click(*at(page, 0, 70, 60))
    page.keyboard.press("l")
    page.keyboard.type("bar")
    page.keyboard.press("Enter")
    page.keyboard.press("d")
    wait_for_image(page, 1)
    page.select_option("select[name=stage]", "semi")
    num_shown = int(page.inner_text("#summary").split(" masks")[0].split()[-1])
    page.keyboard.press("Tab")
    page.keyboard.press("r")
    page.keyboard.press("a")
    page.keyboard.press("d")
    page.wait_for_function("() => !document.querySelector(`.workspace[data-image='1']`)", polling=50)
    first, second = log_of(annotated, 0), log_of(annotated, 1)
    [bar] = masks_of(annotated, 0)
    apply_corrections_of(open_parent(annotated.dataset.store.describe()), tmp_path / "version2")
    images = {row.image_id: row for row in open_dataset(tmp_path / "version2").records()}
    source = open_source(str(tmp_path / "version2"))

    assert "0 masks, 0 unjudged" in shown_before
    assert {line.stage for line in first} == {Stage.MANUAL}
    assert {line.stage for line in second} == {Stage.SEMI}
    assert all(is_exhaustive(said) for said in (first, second))
    assert [line.prompts[0].kind for line in first if line.operation is Operation.ADD] == ["stroke"]
    assert 0 < sum(line.time_s or 0 for line in first) < 60
    assert (bar.sum(), bar[60, 40:101].all()) == (pytest.approx(60 * 25 + np.pi * 144, rel=0.05), True)
    assert len(masks_of(annotated, 1)) == num_shown - 1
    assert [mask.label for mask in images[0].annotations] == ["bar"]
    np.testing.assert_array_equal(source.read(0).mask(0), bar)
    assert len(source.read(1).runs) == num_shown - 1


def test_clicks_draw_masks_and_what_was_clicked_is_kept(page, annotated):
    """Points and their kind are in the log; a candidate is chosen by its key."""
    open_image(page, annotated, 2, stage="manual")
    page.keyboard.press("c")
    page.wait_for_function("() => performance.getEntriesByName('prompts ready').length", timeout=60_000)
    page.mouse.click(*at(page, 2, 80, 60))
    page.wait_for_selector("#candidates button")
    page.mouse.click(*at(page, 2, 20, 20), button="right")
    page.wait_for_function("() => document.querySelectorAll('#candidates button').length === 4")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    wait_saved(page)
    *_, line = log_of(annotated, 2)

    assert [(prompt.kind, prompt.foreground) for prompt in line.prompts] == [
        ("point", True),
        ("point", False),
    ]
    assert line.prompts[0].coords == pytest.approx((80, 60), abs=1)
    assert page.complaints == []


def test_masks_are_mended_merged_split_cut_and_all_of_it_undone(page, annotated):
    """Every tool's masks are what plain arithmetic makes of them; undoing ends where it began."""
    open_image(page, annotated, 3, stage="manual")
    page.keyboard.press("b")
    for left in (20, 100):
        drag(page, 3, (left, 40), (left + 30, 40))
        page.keyboard.press("Enter")
    wait_saved(page)
    one, other = masks_of(annotated, 3)[-2:]
    page.keyboard.press("v")
    page.mouse.click(*at(page, 3, 30, 40))
    page.keyboard.down("Shift")
    page.mouse.click(*at(page, 3, 110, 40))
    page.keyboard.up("Shift")
    page.keyboard.press("m")
    wait_saved(page)
    merged = masks_of(annotated, 3)[-1]
    page.keyboard.press("s")
    wait_saved(page)
    pieces = masks_of(annotated, 3)[-2:]
    page.mouse.click(*at(page, 3, 30, 40))
    page.keyboard.press("k")
    drag(page, 3, (36, 20), (36, 60))
    wait_saved(page)
    halves = masks_of(annotated, 3)[-2:]
    page.mouse.click(*at(page, 3, 110, 40))
    page.keyboard.press("e")
    drag(page, 3, (128, 20), (128, 60))
    page.keyboard.press("Enter")
    wait_saved(page)
    mended = [mask for mask in masks_of(annotated, 3) if (mask & other).any()][-1]
    num_lines = len(log_of(annotated, 3))
    for _ in range(6):
        page.keyboard.press("z")
    wait_saved(page)
    undone = [
        mask.mask_id for mask in apply_corrections(annotated.viewer.places.find(3), log_of(annotated, 3))
    ]
    page.keyboard.press("y")
    wait_saved(page)

    assert (merged == (one | other)).all()
    assert sorted(mask.sum() for mask in pieces) == sorted([one.sum(), other.sum()])
    assert (halves[0] | halves[1] == one).all()
    assert not (halves[0] & halves[1]).any()
    assert 0 < mended.sum() < other.sum()
    assert not (mended & ~other).any()
    assert not any(isinstance(mask_id, str) for mask_id in undone)
    assert [line.operation for line in log_of(annotated, 3)[num_lines:]] == ["undo"] * 6 + ["redo"]
    assert len(in_force(log_of(annotated, 3))) == 1


def test_a_tab_that_was_overtaken_says_so_and_shows_what_is_there(page, annotated):
    """Ben deletes what Ada is about to accept: she is told who was faster, and his word stands."""
    other = page.context.new_page()
    try:
        open_image(page, annotated, 2, stage="review", by="Ada")
        open_image(other, annotated, 2, stage="review", by="Ben")
        other.keyboard.press("x")  # the least stable mask is chosen in both
        wait_saved(other)
        before = len(log_of(annotated, 2))
        page.bring_to_front()
        page.keyboard.press("a")
        page.wait_for_function(
            "() => document.querySelector('#status').textContent.includes('Ben changed')", polling=50
        )

        assert len(log_of(annotated, 2)) == before
        assert page.inner_text("#summary") == other.inner_text("#summary")
    finally:
        other.close()
        page.complaints.clear()  # the browser says that the answer was 409


def test_a_server_that_dies_loses_nothing_that_was_saved(page, annotated, tmp_path):
    """What was said meanwhile is said again to the next server of the place, once."""
    shutil.copytree(annotated.dataset.store.describe(), tmp_path / "data")
    shutil.rmtree(tmp_path / "data/corrections", ignore_errors=True)
    with serving(Viewer(open_dataset(tmp_path / "data"))) as first:
        page.goto(first.url)
        open_image(page, first, 0, stage="review")
        page.keyboard.press("x")
        wait_saved(page)
    page.keyboard.press("Tab")
    page.keyboard.press("x")
    page.wait_for_function("() => document.querySelector('#saving').textContent.includes('does not answer')")
    lines_then = log_of(first, 0)
    with serving(Viewer(open_dataset(tmp_path / "data")), port=first.port) as second:
        wait_saved(page)
        lines_now = log_of(second, 0)

    assert len(lines_then) == 1
    assert lines_now[:1] == lines_then
    assert len({line.mask_id for line in lines_now}) == len(lines_now) == 2
    page.complaints.clear()  # the browser says that it could not connect


def test_a_change_repaints_what_a_whole_painting_would(page):
    """Masks that come, go, move and change their colour, one after another, against all of it made anew."""
    rng = np.random.default_rng(3)

    def mask(number):
        left, top, width, height = rng.integers([0, 0, 1, 1], [50, 40, 14, 12])
        area = np.zeros((53, 61), bool)
        area[top : top + height, left : left + width] = rng.random((1, 1)) < 2
        area[top : top + height : 3, left : left + width] = rng.random() < 0.5
        ys, xs = np.nonzero(area | np.pad(area[:1, :1], ((0, 52), (0, 60))))
        if not len(ys):
            area[top, left] = True
            ys, xs = np.nonzero(area)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)), int(np.ptp(ys))]
        return {
            "id": int(number),
            "segmentation": {"size": [53, 61], "counts": encode_mask(area)},
            "bbox": box,
            "area": int(area.sum()),
            "accepted": bool(rng.random() < 0.5),
            "gone": bool(rng.random() < 0.3),
        }

    start = [mask(number) for number in range(20)]
    changes = [mask(rng.integers(0, 26)) for _ in range(60)]
    same = page.evaluate(
        """async ({ start, changes }) => {
            const { EditableStack } = await import("/static/editable_masks.js");
            const colour = (mask) => (mask.accepted ? [1, 200, 3] : [200, 100, 0]);
            const how = { colour, fill: true, outlines: true, uncovered: false };
            const stack = new EditableStack(61, 53, start, () => true);
            const painted = new ImageData(61, 53);
            stack.paint(painted, how);
            const grow = ({ left, top, width, height }) => {
                const [x, y] = [Math.max(0, left - 1), Math.max(0, top - 1)];
                const [right, bottom] = [Math.min(61, left + width + 1), Math.min(53, top + height + 1)];
                return { left: x, top: y, width: right - x, height: bottom - y };
            };
            return changes.map((change) => {
                const box = stack.put(change);
                if (box) stack.paint(painted, how, grow(box));
                const whole = new EditableStack(61, 53, stack.masks.map((mask) => ({ ...mask })), () => true);
                const anew = new ImageData(61, 53);
                whole.paint(anew, how);
                return stack.top.every((value, place) => value === whole.top[place]) &&
                    anew.data.every((value, place) => value === painted.data[place]);
            });
        }""",
        {"start": start, "changes": changes},
    )

    assert same == [True] * len(changes)


def test_bitmaps_are_cut_and_put_together_as_scipy_does(page):
    """Runs, connected parts (corners touch), and strokes, which cover every disc along their way."""
    rng = np.random.default_rng(4)
    masks = [rng.random((23, 31)) < share for share in (0, 0.1, 0.4, 0.7, 1)]
    found = page.evaluate(
        """async (given) => {
            const { components, fromSpans, paintStroke, toRuns } = await import("/static/bitmap.js");
            const { foreground } = await import("/static/rle.js");
            const bitmaps = given.map((runs) => fromSpans(foreground(Uint32Array.from(runs)), 23 * 31));
            const stroke = new Uint8Array(23 * 31);
            const box = paintStroke(stroke, 31, 23, [4, 5], [25, 15], 3, 1);
            const area = (bitmap) => bitmap.reduce((a, b) => a + b, 0);
            const parts = bitmaps.map((bitmap) => components(bitmap, 23).map(area));
            return { runs: bitmaps.map(toRuns), stroke: toRuns(stroke), box, parts };
        }""",
        [mask_to_runs(mask).tolist() for mask in masks],
    )
    y, x = np.mgrid[:23, :31]
    along = [(x - 4 - 21 * t) ** 2 + (y - 5 - 10 * t) ** 2 <= 9 for t in np.linspace(0, 1, 200)]
    stroke = np.zeros(23 * 31, bool)
    place, value = 0, False
    for run in found["stroke"]:
        stroke[place : place + run] = value
        place, value = place + run, not value
    stroke = stroke.reshape(31, 23).T

    assert found["runs"] == [mask_to_runs(mask).tolist() for mask in masks]
    for mask, areas in zip(masks, found["parts"], strict=True):
        labels, number = ndimage.label(mask, np.ones((3, 3)))
        assert sorted(areas) == sorted(np.bincount(labels.ravel())[1:])
        assert len(areas) == number
    assert (stroke ^ np.any(along, axis=0)).sum() < 12  # discs lie a quarter of a radius apart
    assert found["box"] == {"left": 1, "top": 2, "width": 28, "height": 17}
