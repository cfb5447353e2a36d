"""What people see, in headless Chromium: pixels, words, and that nothing is asked of anybody else."""

import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from sam_engine.ops.rle import decode_counts, mask_to_runs, runs_to_counts
from tests.web.conftest import EVIL_NAME


@pytest.fixture(scope="module")
def page(watched_page, served):
    """A page of the viewer, let in by the token; what it complains of and whom it asks is kept."""
    watched_page.goto(served.url)
    watched_page.wait_for_selector(".card")
    return watched_page


def open_image(page, served, image_id, query=""):
    """Go to an image's page by its address and wait until it is drawn."""
    page.goto(f"http://127.0.0.1:{served.port}/#/")
    page.wait_for_selector(".card")
    page.goto(f"http://127.0.0.1:{served.port}/#/image/{image_id}{query}")
    page.wait_for_selector("#summary")
    page.wait_for_function("() => document.querySelector('.stage canvas').width > 300")


def at_pixel(page, served, image_id, x, y):
    """Where on the page a pixel of the image lies."""
    record = served.viewer.places.find(image_id)
    box = page.locator(".stage").bounding_box()
    scale = min(box["width"] / record.width, box["height"] / record.height)
    left = box["x"] + (box["width"] - record.width * scale) / 2
    top = box["y"] + (box["height"] - record.height * scale) / 2
    return left + (x + 0.5) * scale, top + (y + 0.5) * scale


def pixels_of(locator):
    """What an element looks like, (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"))


def smallest_at(record, x, y):
    """The mask that lies on top at a pixel, by plain decoding; None where there is none."""
    there = [
        (mask.area, number)
        for number, mask in enumerate(record.annotations)
        if decode_counts(mask.counts, mask.size)[y, x]
    ]
    return min(there)[1] if there else None


def test_the_grid_shows_every_image_and_its_name_as_text(page, served):
    """A file called like a page is shown as a name; the thumbnail is a picture."""
    page.goto(f"http://127.0.0.1:{served.port}/#/?")
    page.wait_for_selector(".card")
    shown = page.locator(".card .name").all_inner_texts()
    page.wait_for_function("() => [...document.querySelectorAll('.card img')].every(i => i.naturalWidth > 0)")

    assert EVIL_NAME in shown
    assert len(shown) == 5
    assert page.locator(".card img").count() == 4


def test_the_token_is_in_no_address(page):
    """After the first load neither the address bar nor the history has it."""
    assert "token" not in page.url
    assert page.evaluate("document.referrer") == ""


def test_hovering_names_the_smallest_mask(page, served):
    """The words are of the mask that lies on top under the pointer."""
    open_image(page, served, 1)
    record = served.viewer.places.find(1)
    x, y = (int(value) for value in record.annotations[0].point_coords[0])
    number = smallest_at(record, x, y)
    page.mouse.move(*at_pixel(page, served, 1, x, y))
    page.wait_for_function("() => document.querySelector('#tip').textContent.includes('predicted IoU')")
    mask = record.annotations[number]

    assert page.inner_text("#tip").startswith(f"mask {65536 + number} · {mask.area:,} px")
    assert f"predicted IoU {mask.predicted_iou:.3f}" in page.inner_text("#tip")


def test_a_mask_has_its_colour_in_exactly_its_pixels(page, served):
    """Which mask is on top, for every pixel of an image, is what plain decoding says."""
    record = served.viewer.places.find(1)
    on_top = np.zeros((record.height, record.width), int)
    for number in sorted(range(len(record.annotations)), key=lambda n: (-record.annotations[n].area, n)):
        mask = record.annotations[number]
        on_top[decode_counts(mask.counts, mask.size)] = number + 1
    found = page.evaluate(
        """async (id) => {
            const { MaskStack } = await import("/static/masks.js");
            const image = await (await fetch(`/api/images/${id}`)).json();
            const stack = new MaskStack(image.width, image.height, image.masks);
            return [...stack.top];
        }""",
        1,
    )

    assert np.array_equal(np.array(found).reshape(record.width, record.height).T, on_top)


def highlighted(page, image_id, number, view):
    """Rows of 0, 1 and 2: outside, fill and edge of a mask as it is highlighted; and where that lies."""
    return page.evaluate(
        """async ({ id, number, view }) => {
            const { MaskStack } = await import("/static/masks.js");
            const { highlight } = await import("/static/highlight.js");
            const image = await (await fetch(`/api/images/${id}`)).json();
            const stack = new MaskStack(image.width, image.height, image.masks);
            const found = highlight(stack, number, view, { fill: 1, edge: 2 });
            return found && { x: found.x, y: found.y, width: found.image.width,
                pixels: [...new Uint32Array(found.image.data.buffer)] };
        }""",
        {"id": image_id, "number": number, "view": view},
    )


def on_screen(found, size):
    """The highlight on a screen of (H, W)."""
    screen = np.zeros(size, int)
    rows = np.array(found["pixels"]).reshape(-1, found["width"])
    y, x = max(0, found["y"]), max(0, found["x"])
    part = rows[y - found["y"] :, x - found["x"] :][: size[0] - y, : size[1] - x]
    screen[y : y + part.shape[0], x : x + part.shape[1]] = part
    return screen


def test_a_highlight_covers_the_pixels_of_its_mask(page, served):
    """At scale 1 just those, its edge two pixels wide; at 3 nine for each, also half out of view."""
    record = served.viewer.places.find(1)
    mask = decode_counts(record.annotations[0].counts, record.annotations[0].size)
    height, width = mask.shape
    view = {"scale": 1, "left": 0, "top": 0, "width": width, "height": height}
    plain = on_screen(highlighted(page, 1, 0, view), mask.shape)
    view = {"scale": 3, "left": -width, "top": 7, "width": width, "height": height}
    zoomed = on_screen(highlighted(page, 1, 0, view), mask.shape)
    expected = np.zeros(mask.shape, bool)
    expected[7:] = np.kron(mask, np.ones((3, 3), bool))[: height - 7, width : 2 * width]
    core = mask.copy()
    for shift in (1, 2, -1, -2):
        for axis in (0, 1):
            core &= np.roll(np.pad(mask, 2), shift, axis)[2:-2, 2:-2]

    assert np.array_equal(plain > 0, mask)
    assert np.array_equal(plain == 1, core)
    assert np.array_equal(zoomed > 0, expected)


def test_a_mask_of_one_pixel_is_seen_from_afar(page):
    """At a tenth of its size an image still shows the smallest mask under the pointer."""
    found = page.evaluate(
        """async () => {
            const { MaskStack } = await import("/static/masks.js");
            const { highlight } = await import("/static/highlight.js");
            const mask = { segmentation: { counts: "`611", size: [10, 21] }, area: 1, bbox: [20, 8, 0, 0] };
            const stack = new MaskStack(21, 10, [mask]);
            const view = { scale: 0.1, left: 0, top: 0, width: 3, height: 1 };
            const { image } = highlight(stack, 0, view, { fill: 1, edge: 2 });
            return [...new Uint32Array(image.data.buffer)].filter((value) => value).length;
        }"""
    )

    assert found == 1


def test_the_canvas_shows_the_overlay(page, served):
    """With fills alone, a pixel under a mask is tinted by its colour and one beside it is the photo's."""
    open_image(page, served, 1)
    record = served.viewer.places.find(1)
    covered = np.zeros((record.height, record.width), bool)
    for mask in record.annotations:
        covered |= decode_counts(mask.counts, mask.size)
    page.locator("input[name=outlines]").uncheck()
    page.wait_for_timeout(200)
    with_fill = pixels_of(page.locator(".stage"))
    page.locator("input[name=fill]").uncheck()
    page.wait_for_timeout(200)
    without = pixels_of(page.locator(".stage"))
    share = (with_fill != without).any(axis=2).mean()
    box = page.locator(".stage").bounding_box()
    scale = min(box["width"] / record.width, box["height"] / record.height)
    page.locator("input[name=fill]").check()
    page.locator("input[name=outlines]").check()

    assert share == pytest.approx(covered.sum() * scale**2 / (box["width"] * box["height"]), abs=0.02)


def test_a_slider_leaves_masks_out(page, served):
    """The summary counts those that are left."""
    open_image(page, served, 1)
    scores = [mask.predicted_iou for mask in served.viewer.places.find(1).annotations]
    page.locator("input[name=predicted_iou]").evaluate(
        "input => { input.value = 0.925; input.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    left = sum(score >= 0.925 for score in scores)

    assert 0 < left < len(scores)
    assert page.inner_text("#summary").startswith(f"{left} of {len(scores)} masks")


def test_a_deep_link_pins_its_mask(page, served):
    """An address with a mask's id shows that mask; a click on it goes on to the one under it."""
    record = served.viewer.places.find(1)
    open_image(page, served, 1, f"?mask={65536 + 2}")
    first = page.inner_text("#mask-info")

    assert first.startswith(f"mask {65536 + 2} ")
    assert page.url.endswith(f"#/image/1?mask={65536 + 2}")
    assert len(record.annotations) > 2


def test_clicks_cycle_through_the_stack(page, served):
    """Clicking the same pixel again and again visits every mask that covers it, from the smallest."""
    open_image(page, served, 1)
    record = served.viewer.places.find(1)
    x, y = (int(value) for value in record.annotations[0].point_coords[0])
    stacked = sorted(
        (mask.area, number)
        for number, mask in enumerate(record.annotations)
        if decode_counts(mask.counts, mask.size)[y, x]
    )
    pinned = []
    for _ in stacked:
        page.mouse.click(*at_pixel(page, served, 1, x, y))
        pinned.append(page.inner_text("#mask-info").split()[1])

    assert len(stacked) > 1
    assert pinned == [str(65536 + number) for _, number in stacked]


def test_masks_are_reached_by_keyboard(page, served):
    """Arrows go through the table, also one that is sorted; n to the next mask under the last click."""
    open_image(page, served, 1)
    record = served.viewer.places.find(1)
    pinned = []
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        pinned.append(page.inner_text("#mask-info").split()[1])
    page.get_by_role("button", name="area").click()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    largest = max(range(len(record.annotations)), key=lambda number: record.annotations[number].area)

    assert pinned == ["65536", "65537", "65536"]
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("area")
    assert page.inner_text("#mask-info").split()[1] == str(65536 + largest)
    x, y = (int(value) for value in record.annotations[0].point_coords[0])
    page.mouse.click(*at_pixel(page, served, 1, x, y))
    first = page.inner_text("#mask-info")
    page.keyboard.press("n")
    assert page.inner_text("#mask-info") != first


def test_a_cut_out_has_the_pixels_of_its_mask(page, served):
    """As PNG: the box of the mask, clear where the mask is not."""
    open_image(page, served, 1, f"?mask={65536}")
    mask = served.viewer.places.find(1).annotations[0]
    x, y, width, height = (int(value) for value in mask.bbox)
    page.wait_for_timeout(300)  # the picture
    with page.expect_download() as download:
        page.get_by_role("button", name="cut-out PNG").click()
    cut = np.asarray(Image.open(download.value.path()))
    inside = decode_counts(mask.counts, mask.size)[y : y + height + 1, x : x + width + 1]
    jpeg = served.viewer.pictures.full(served.viewer.places.find(1))
    shown = np.asarray(Image.open(io.BytesIO(jpeg)))[y : y + height + 1, x : x + width + 1]

    assert np.array_equal(cut[..., 3] > 0, inside)
    assert np.abs(cut[inside][:, :3].astype(int) - shown[inside]).mean() < 3  # another decoder's rounding


def test_a_narrow_window_shows_the_image_above_its_masks(page, served):
    """On a phone, or beside an editor."""
    page.set_viewport_size({"width": 400, "height": 700})
    open_image(page, served, 1)
    stage, side = (page.locator(name).bounding_box() for name in (".stage", ".side"))
    page.set_viewport_size({"width": 1000, "height": 700})

    assert stage["width"] == side["width"] == 400
    assert side["y"] >= stage["y"] + stage["height"]


def test_a_failed_image_says_why(page, served):
    """No masks, no picture, but the reason."""
    page.goto(f"http://127.0.0.1:{served.port}/#/image/4")
    page.wait_for_function("() => document.querySelector('.side h1')?.textContent === 'z.png'")

    assert "unsupported" in page.inner_text(".side") or "corrupt" in page.inner_text(".side")


def test_statistics_are_drawn(page, served):
    """A chart for each measure, a row for each status."""
    page.goto(f"http://127.0.0.1:{served.port}/#/statistics")
    page.wait_for_selector("svg.heat")

    assert page.locator("svg").count() == 5
    assert page.locator("td a").all_inner_texts() == ["ok", "unsupported"]


def random_masks():
    """Masks that are hard to encode: noise, nothing, everything, single pixels, lines, very large ones."""
    rng = np.random.default_rng(5)
    for number in range(990):
        size = tuple(rng.integers(1, 40, 2))
        yield rng.random(size) < rng.random() ** (1 + number % 3)
    yield from (np.zeros((7, 9), bool), np.ones((7, 9), bool), np.ones((1, 1), bool), np.zeros((1, 1), bool))
    yield from (np.ones((1, 300), bool), np.ones((300, 1), bool), np.eye(60, dtype=bool))
    large = np.zeros((1500, 2250), bool)
    large[700:900, 300:2000] = True
    yield from (large, ~large, np.ones((1500, 2250), bool))


def test_run_lengths_are_decoded_as_pycocotools_does(page):
    """A thousand masks, random and degenerate; runs above 2^16 among them."""
    masks = list(random_masks())
    encoded = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    given = [{"counts": rle["counts"].decode(), "size": rle["size"]} for rle in encoded]
    found = page.evaluate(
        """async (given) => {
            const { decodeCounts } = await import("/static/rle.js");
            return given.map(({ counts, size }) => [...decodeCounts(counts, size)]);
        }""",
        given,
    )

    assert len(masks) == 1000
    assert max(max(runs) for runs in found) > 2**16
    assert [runs_to_counts(np.array(runs)) for runs in found] == [rle["counts"] for rle in given]
    assert found[0] == mask_to_runs(masks[0]).tolist()


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ("0", [2, 2]), ("5", [2, 2]), ("o" * 20, [9, 9]), ("\u00ff", [1, 1]), ("", [3, 3]), ("2O2", [2, 2]),
        ("T", [9, 9]),
    ],
)  # fmt: skip
def test_damaged_run_lengths_are_refused(page, counts, size):
    """Whatever does not fill the image is an error, not a mask."""
    message = page.evaluate(
        """async ({ counts, size }) => {
            const { decodeCounts } = await import("/static/rle.js");
            try { return `took ${[...decodeCounts(counts, size)]}`; } catch (error) { return error.name; }
        }""",
        {"counts": counts, "size": size},
    )

    assert message == "RangeError"


def test_nothing_was_complained_of_and_nobody_else_was_asked(page, served):
    """Over all pages: no console message, no error, no dialog, no request to another host."""
    for address in ("", "image/1", "image/4", "statistics", "?sample=3&masks=0", "?text=nothing"):
        page.goto(f"http://127.0.0.1:{served.port}/#/{address}")
        page.wait_for_timeout(200)

    assert page.complaints == []
    assert page.hosts == {f"127.0.0.1:{served.port}"}


def hear_interrupts():
    """Whatever started the tests in the background has them ignore SIGINT, and would have their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_tool_prints_its_address_first(dataset):
    """One line with the token on stdout, before anything else; Ctrl-C ends it with 130."""
    command = [sys.executable, "-m", "tools.view", dataset.store.describe(), "--port", "0", "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    ) as process:
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()

    assert line.startswith("http://127.0.0.1:")
    assert len(line.split("?token=")[1]) > 24
    assert process.returncode == 130, json.dumps(err)
