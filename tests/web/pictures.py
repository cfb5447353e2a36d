"""python -m tests.web.pictures DATASET docs: the README's pictures, of a dataset of the sample photos."""

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from sam_engine.dataset.reader import open_dataset
from sam_engine.web.app import Viewer
from sam_engine.web.server import serving

SIZE = (1280, 720)
"""Of a page, in pixels: width, height."""
SCALE = 0.72
"""Of the picture, relative to the pages."""
HEIGHT = 300
"""Of the previews in a row, in pixels."""
READY = "() => /decoded (in this browser|by the server: ONNX Runtime)/.test(document.body.innerText)"
"""Whether the decoder is loaded, or is not going to be."""


def main() -> int:
    """Take the grid and one image's page, one above the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("folder", type=Path, help="gets viewer.jpg, segment.jpg and demo.jpg")
    parser.add_argument("--image", default="coffee.png", help="file name of the image that is opened")
    options = parser.parse_args()
    viewer = Viewer(open_dataset(options.dataset))
    viewer.listing.look()
    number = next(
        record.image_id for record in viewer.dataset.records() if record.path.decode() == options.image
    )
    with serving(viewer, "picture") as address:
        pages = shoot(address.partition("/?")[0], number)
    for name, page in pages.items():
        small = page.resize((round(page.width * SCALE), round(page.height * SCALE)), Image.Resampling.LANCZOS)
        small.save(options.folder / name, quality=85)
    strip(sorted(Path(options.dataset, "previews").glob("*.jpg"))[:4]).save(
        options.folder / "demo.jpg", quality=88
    )
    return 0


def strip(paths: list[Path]) -> Image.Image:
    """Return pictures side by side, all of one height."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    pictures = [
        picture.resize((round(picture.width * HEIGHT / picture.height), HEIGHT), Image.Resampling.LANCZOS)
        for picture in pictures
    ]
    whole = Image.new("RGB", (sum(picture.width for picture in pictures), HEIGHT))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


def shoot(address: str, number: int) -> dict[str, Image.Image]:
    """Return pages of an image: with the mask pinned that lies under its middle, and with one by a box."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.set_default_timeout(120_000)
        page.goto(f"{address}/?token=picture")
        page.wait_for_selector(".card")
        page.goto(f"{address}/#/image/{number}")
        page.wait_for_selector("#summary")
        page.wait_for_timeout(1500)
        box = page.locator(".stage").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(300)
        pinned = picture_of(page)
        page.goto(f"{address}/#/segment/images/{number}")
        page.wait_for_function("() => document.querySelector('#status')?.textContent.startsWith('Click')")
        page.wait_for_function(READY)
        box = page.locator(".stage").bounding_box()
        left, top, right, bottom = (
            box["x"] + box["width"] * 0.27, box["y"] + box["height"] * 0.12,
            box["x"] + box["width"] * 0.72, box["y"] + box["height"] * 0.76,
        )  # fmt: skip
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move((left + right) / 2, (top + bottom) / 2)
        page.mouse.move(right, bottom)
        page.mouse.up()
        page.wait_for_selector(".candidate")
        page.wait_for_timeout(500)
        prompted = picture_of(page)
        browser.close()
    return {"viewer.jpg": pinned, "segment.jpg": prompted}


def picture_of(page: Page) -> Image.Image:
    """Return what a page looks like; where the dataset lies, which it says above, is nobody's business."""
    page.evaluate("document.getElementById('about').textContent = 'tiny · sample photos'")
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
