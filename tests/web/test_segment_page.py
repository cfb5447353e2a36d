"""The page "Segment" in headless Chromium: clicks, and what the modules below it compute."""

import base64
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from sam_engine.ops.resize import ResizeLongestSide, upscale_logits
from sam_engine.ops.rle import decode_counts
from sam_engine.predictor import SamPredictor
from tests.web.test_browser import random_masks


@pytest.fixture(scope="module")
def page(watched_page, served):
    """A page that is let in, on which masks are decoded by the server."""
    watched_page.goto(served.url)
    watched_page.wait_for_selector(".card")
    return watched_page


def open_segment(page, served, ref="images/1"):
    """Go to an image, and wait until it takes clicks."""
    page.goto(f"http://127.0.0.1:{served.port}/#/segment")
    page.wait_for_selector(".dropzone")
    page.goto(f"http://127.0.0.1:{served.port}/#/segment/{ref}")
    page.wait_for_function("() => document.querySelector('#status')?.textContent.startsWith('Click')")
    page.locator("input[name=hovers]").uncheck()


def click(page, x, y, **how):
    """Click on a pixel of the 160 x 120 image, wait for the masks, return where on the page it is."""
    box = page.locator(".segment .stage").bounding_box()
    scale = min(box["width"] / 160, box["height"] / 120)
    left = box["x"] + (box["width"] - 160 * scale) / 2 + (x + 0.5) * scale
    top = box["y"] + (box["height"] - 120 * scale) / 2 + (y + 0.5) * scale
    page.mouse.click(left, top, **how)
    page.wait_for_function("() => document.querySelector('#status').textContent.includes('score')")
    return left, top


def kept_masks(page):
    """What "Download all" writes of the cut-outs that were kept."""
    with page.expect_download() as download:
        page.get_by_text("Download all as JSON").click()
    return json.loads(download.value.path().read_text())["annotations"]


def test_a_click_gives_the_mask_of_pythons_predictor(page, served):
    """IoU above 0.99, for the likeliest candidate and for one that is chosen by its key."""
    image = served.viewer.prompting.images.find("1")
    predictor = SamPredictor(served.viewer.prompting.model.model)
    predictor.set_image(image.pixels())
    open_segment(page, served)
    for key in ("", "2"):
        click(page, 60, 50)
        if key:
            page.keyboard.press(key)
        page.keyboard.press("Enter")
    kept = kept_masks(page)
    masks, scores, _ = predictor.predict(np.array(kept[0]["point_coords"]), np.array([1]))

    assert np.abs(np.array(kept[0]["point_coords"]) - (60, 50)).max() < 0.5
    for annotation, number in zip(kept, (int(scores.argmax()), 1), strict=True):
        found = decode_counts(annotation["segmentation"]["counts"], tuple(annotation["segmentation"]["size"]))
        assert (found & masks[number]).sum() / (found | masks[number]).sum() > 0.99
        assert annotation["predicted_iou"] == pytest.approx(scores[number], abs=0.01)


def test_points_are_added_taken_back_and_done_again(page, served):
    """The prompt grows by a background point; z and y go through what was seen."""
    open_segment(page, served)
    click(page, 60, 50)
    first = page.inner_text("#status")
    assert page.locator(".candidate").count() == 3
    with page.expect_request("**/predict") as request:
        click(page, 100, 90, button="right")
    page.wait_for_function("() => document.querySelectorAll('.candidate').length === 4")
    second = page.inner_text("#status")
    page.keyboard.press("z")
    undone = page.inner_text("#status")
    page.keyboard.press("y")
    redone = page.inner_text("#status")
    page.keyboard.press("Escape")

    assert request.value.post_data_json["labels"] == [1, 0]
    assert request.value.post_data_json["previous"] is not None
    assert (undone, redone) == (first, second)
    assert page.inner_text("#status").startswith("Click")


def test_all_can_be_done_by_keyboard(page, served):
    """Tab to the image, move the cross, Space sets a point, b and Space twice a box."""
    open_segment(page, served)
    page.locator(".segment canvas[tabindex]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.wait_for_selector(".candidate")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.locator(".segment canvas[tabindex]").focus()
    page.keyboard.press("Space")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.wait_for_selector(".candidate")
    page.keyboard.press("Enter")
    page.keyboard.press("i")

    assert page.inner_text("#status") == "Kept as cut-out 1."
    assert page.locator(".keptrow").count() == 1


def test_a_dropped_photo_is_opened_and_a_bad_one_is_refused(page, served, dataset):
    """By the same way; the words name the file and what is wrong with it."""
    page.goto(f"http://127.0.0.1:{served.port}/#/segment")
    page.wait_for_selector(".dropzone")
    page.locator("#file").set_input_files(
        {"name": "no.png", "mimeType": "image/png", "buffer": b"no image at all"}
    )
    page.wait_for_selector(".notice.problem")
    refused = page.inner_text(".notice")
    photo = served.viewer.pictures.full(served.viewer.places.find(0))
    name = "<img src=x onerror=alert(1)>.jpg"
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": photo})
    page.wait_for_function("() => document.querySelector('#status')?.textContent.startsWith('Click')")

    assert refused.startswith("no.png cannot be used. unsupported")
    assert page.inner_text(".side h1") == name
    assert "#/segment/uploads/" in page.url


def test_the_next_image_is_a_link_away_and_the_last_has_none(page, served):
    """Image 3 is followed by one without pixels; that one is not asked for."""
    open_segment(page, served, "images/2")
    page.get_by_text("next →").click()
    page.wait_for_function("() => document.querySelector('.side h1')?.textContent === 'c/d.png'")
    page.wait_for_function("() => document.querySelector('#status')?.textContent.startsWith('Click')")

    assert page.get_by_text("next →").count() == 0
    assert page.get_by_text("← previous").count() == 1


def test_everything_is_shown_and_one_of_it_taken(page, served):
    """A click picks the mask on top, which can be kept like any other."""
    covered = np.zeros((120, 160), np.uint8, order="F")
    covered[20:60, 30:80] = 1
    segmentation = {"size": [120, 160], "counts": coco.encode(covered)["counts"].decode()}
    found = {"segmentation": segmentation, "area": 2000, "bbox": [30, 20, 49, 39], "predicted_iou": 0.875}
    open_segment(page, served)
    page.route("**/everything", lambda route: route.fulfill(json={"masks": [found]}))
    page.keyboard.press("e")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes('1 masks. Click')")
    click(page, 33, 22)
    taken = page.inner_text("#status")
    page.unroute("**/everything")
    page.keyboard.press("Escape")

    assert taken == "2,000 pixels, 10.4 % of the image · score 0.88"


def test_who_decodes_is_said(page, served):
    """Without the runtime the note says so, and what to do."""
    open_segment(page, served)

    assert page.inner_text("#decoding").startswith("Masks are decoded by the server")
    assert "--fetch-runtime" in page.inner_text("#decoding")


@pytest.mark.parametrize(("height", "width"), [(300, 200), (121, 160), (1, 7), (1500, 2250), (97, 97)])
def test_masks_are_upscaled_as_in_python(page, height, width):
    """Smooth random logits, at aspect ratios of all kinds, larger and smaller than the model's input."""
    side, square = 64, 256
    generator = torch.Generator().manual_seed(height)
    coarse = torch.randn(1, 1, 6, 6, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    inside = ResizeLongestSide.get_preprocess_shape(height, width, square)
    expected = upscale_logits(logits, square, inside, (height, width))[0, 0].numpy()
    runs = page.evaluate(
        """async ({ logits, size, inputSize, square, side }) => {
            const { Upscaler } = await import("/static/upscale.js");
            const { encodeRuns } = await import("/static/rle.js");
            const bytes = Uint8Array.from(atob(logits), (letter) => letter.charCodeAt(0));
            const upscaler = new Upscaler({ size, inputSize, square, side });
            return encodeRuns(upscaler.runs(new Float32Array(bytes.buffer), 0));
        }""",
        {
            "logits": base64.b64encode(logits.numpy().tobytes()).decode(),
            "size": [height, width],
            "inputSize": list(inside),
            "square": square,
            "side": side,
        },
    )
    found = decode_counts(runs, (height, width))

    assert not (found != (expected > 0))[np.abs(expected) > 1e-5].any()


def test_run_lengths_are_written_as_pycocotools_does(page):
    """A thousand masks, random and degenerate."""
    masks = list(random_masks())
    expected = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    given = [{"counts": rle["counts"].decode(), "size": rle["size"]} for rle in expected]
    found = page.evaluate(
        """async (given) => {
            const { decodeCounts, encodeRuns } = await import("/static/rle.js");
            return given.map(({ counts, size }) => encodeRuns(decodeCounts(counts, size)));
        }""",
        given,
    )

    assert found == [rle["counts"] for rle in given]


def test_every_half_is_read(page):
    """All 65,536 of them are what numpy reads; NaN is NaN."""
    found = page.evaluate(
        """async () => {
            const { parseSafetensors } = await import("/static/safetensors.js");
            const header = new TextEncoder().encode(
                JSON.stringify({ a: { dtype: "F16", shape: [65536], data_offsets: [0, 131072] } }));
            const buffer = new ArrayBuffer(8 + header.length + 131072);
            new DataView(buffer).setBigUint64(0, BigInt(header.length), true);
            new Uint8Array(buffer).set(header, 8);
            const view = new DataView(buffer, 8 + header.length);
            for (let i = 0; i < 65536; i++) view.setUint16(2 * i, i, true);
            return [...parseSafetensors(buffer).tensors.a.data].map(String);
        }"""
    )
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)

    assert np.array_equal(np.array(found).astype(np.float32), halves, equal_nan=True)


def test_newer_prompts_overtake_older_ones(page, served):
    """Of five at once the first is decoded, being at work, and the last; previews give way."""
    answers = page.evaluate(
        """async () => {
            const { PromptSession } = await import("/static/prompting.js");
            const session = await PromptSession.start({ inBrowser: false });
            await session.open("images/1");
            const ask = (x, more) => session.predict({ points: [[x, 20]], labels: [1] }, more);
            const all = [ask(10), ask(20), ask(30), ask(40), ask(50, { preview: true })];
            return (await Promise.all(all)).map((found) => found && found.candidates.length);
        }"""
    )

    assert answers == [3, None, None, 3, None]


def test_nothing_was_complained_of(page, served):
    """No message, no error, no request to anybody else; the file that was refused is a 422 of ours."""
    complaints = [text for text in page.complaints if "422" not in text]

    assert complaints == []
    assert page.hosts == {f"127.0.0.1:{served.port}"}
