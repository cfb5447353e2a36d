"""One dataset, one server and one browser for all tests of the room."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from sam_engine.config import ModelConfig
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.storage.embedding_cache import EmbeddingCache
from sam_engine.web import server
from sam_engine.web.annotate_routes import Annotator
from sam_engine.web.annotating import Annotating
from sam_engine.web.app import Viewer
from sam_engine.web.prompting import PromptModel
from tests.helpers import fakes

TOKEN = "the-token-of-the-tests"
EVIL_NAME = "<img src=x onerror=alert(1)>&amp;\u202egnp.png"
NUM_IMAGES = 5


@dataclass(frozen=True)
class Served:
    """A dataset and where its viewer listens."""

    dataset: Dataset
    viewer: Viewer
    port: int

    @property
    def url(self) -> str:
        """With its token."""
        return f"http://127.0.0.1:{self.port}/?token={TOKEN}"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Five images with three discs a point, one of them with a name that is a page, one that is no image."""
    from pipelines.auto_annotate import run

    root = tmp_path_factory.mktemp("viewed")
    rng = np.random.default_rng(0)
    (root / "in").mkdir()
    for number, name in enumerate(["a.png", "b.png", "c/d.png", EVIL_NAME]):
        path = root / "in" / name
        path.parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 255, (120 + number, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    (root / "in/z.png").write_bytes(b"no image at all")
    config = fakes.run_settings(
        input=str(root / "in"), output=str(root / "out"), shard_size=2, max_failed_fraction=1.0
    )
    assert run(config, fakes.make_disc_segmenter) == 0
    return open_dataset(root / "out")


@pytest.fixture(scope="session")
def served(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The viewer of that dataset, running; prompts are answered by the bundled model."""
    cache = EmbeddingCache(tmp_path_factory.mktemp("cache") / "embeddings")
    viewer = Viewer(dataset, model=PromptModel(ModelConfig(device="cpu"), cache))
    viewer.prompting.runtime = lambda: None  # the server decodes masks, if a test does not say otherwise
    with serving(viewer) as made:
        yield made


@pytest.fixture(scope="module")
def annotated(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A copy of the dataset that may be written to, served."""
    root = tmp_path_factory.mktemp("annotated")
    shutil.copytree(dataset.store.describe(), root / "out")
    model = PromptModel(ModelConfig(device="cpu"), EmbeddingCache(root / "embeddings"))
    viewer = Viewer(open_dataset(root / "out"), model=model)
    viewer.prompting.runtime = lambda: None  # masks are decoded by the server
    with serving(viewer) as made:
        yield made


@contextlib.contextmanager
def serving(viewer: Viewer, port: int = 0) -> Iterator[Served]:
    """Serve a dataset that can be corrected."""
    dataset = viewer.dataset
    viewer.annotator = Annotator(annotating=Annotating(dataset, viewer.places), name="Ada")
    viewer.listing.start()
    deadline = time.monotonic() + 20
    while not viewer.listing.is_whole():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with server.serving(viewer, TOKEN, port=port) as address:
        yield Served(dataset, viewer, urlsplit(address).port)
    viewer.listing.close()
    viewer.prompting.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["object"]:
    """Headless Chromium. Of one module: Playwright keeps an event loop running, in which no other can run."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("Debian's chromium is not installed (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def watched_page(browser) -> Iterator["object"]:
    """A page; what it complains of and whom it asks is kept."""
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    made = context.new_page()
    made.complaints, made.hosts = [], set()
    made.on("console", lambda message: made.complaints.append(message.text))
    made.on("pageerror", lambda error: made.complaints.append(str(error)))
    made.on("dialog", lambda dialog: (made.complaints.append("a script ran"), dialog.dismiss()))
    made.on("request", lambda request: made.hosts.add(urlsplit(request.url).netloc))
    yield made
    context.close()
