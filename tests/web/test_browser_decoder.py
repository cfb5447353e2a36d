"""Masks decoded in headless Chromium by ONNX Runtime Web, beside those of the server's torch."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sam_engine.predictor import SamPredictor
from sam_engine.web.runtime import VERSION, find_runtime, unpack_runtime

pytestmark = pytest.mark.slow

NPM_TIMEOUT_S = 120


@pytest.fixture(scope="session")
def runtime(request, tmp_path_factory):
    """The folder of ONNX Runtime Web: fetched by somebody before, or by npm, once for this checkout."""
    cache = getattr(request.config, "cache", None)  # pytest may be told to have none
    kept = Path((cache.mkdir if cache else tmp_path_factory.mktemp)("onnxruntime-web")) / VERSION
    found = find_runtime() or (kept if kept.is_dir() else None)
    if found is not None:
        return found
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("npm")
    if npm is None:
        pytest.skip("ONNX Runtime Web is not here: python -m tools.view --fetch-runtime, or install npm")
    command = [npm, "pack", "--silent", f"onnxruntime-web@{VERSION}"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=NPM_TIMEOUT_S)
    except subprocess.SubprocessError as error:
        pytest.skip(f"npm has no onnxruntime-web {VERSION} for us: {error}")
    [tarball] = folder.iterdir()
    unpack_runtime(tarball.read_bytes(), kept)
    return kept


@pytest.fixture(scope="module")
def page(watched_page, served, runtime):
    """A page with two sessions on one image, `here` in the browser and `there` by the server."""
    pytest.importorskip("onnx", reason="comes with the extra onnx")
    pytest.importorskip("onnxruntime", reason="comes with the extra onnx")
    prompting = served.viewer.prompting
    before, prompting.runtime = prompting.runtime, lambda: runtime
    watched_page.goto(served.url)
    watched_page.wait_for_selector(".card")
    watched_page.set_default_timeout(120_000)
    watched_page.evaluate(
        """async () => {
            const { PromptSession } = await import("/static/prompting.js");
            const here = await PromptSession.start();
            const isDecided = new Promise((resolve) => here.addEventListener("decoding", resolve));
            window.sessions = { here, there: await PromptSession.start({ inBrowser: false }) };
            await isDecided;
            for (const session of Object.values(window.sessions)) await session.open("images/1");
        }"""
    )
    yield watched_page
    prompting.runtime = before


PREDICT = """async ({ prompt, refine }) => {
    const answers = {}, all = [];
    for (const [name, session] of Object.entries(window.sessions)) {
        let found = await session.predict(prompt);
        if (refine) found = await session.predict({ ...prompt, previous: window.first.candidates[0].logits });
        else if (name === "here") window.first = found;
        answers[name] = {
            by: found.by, chosen: found.chosen,
            scores: found.candidates.map(({ score }) => score),
            masks: found.candidates.map((candidate) => session.mask(candidate).toRle()),
        };
        all.push(found.candidates);
    }
    const difference = ({ logits }, other) =>
        logits.reduce((most, value, place) => Math.max(most, Math.abs(value - other.logits[place])), 0);
    const differences = all[0].map((mine, number) => difference(mine, all[1][number]));
    return { ...answers, difference: Math.max(...differences) };
}"""
CLICK = {"points": [[60, 50]], "labels": [1]}
CLEAR = {"points": [[60, 50], [20, 90]], "labels": [1, 0], "box": [30, 20, 120, 100]}


@pytest.mark.parametrize(
    ("prompt", "refine", "count"), [(CLICK, False, 3), (CLEAR, False, 4), (CLICK, True, 4), (CLEAR, True, 4)]
)
def test_the_browser_gives_what_torch_gives(page, prompt, refine, count):
    """Of the same embedding: logits, of some tens, to 1e-3, with and without a mask to refine."""
    if refine:
        page.evaluate(PREDICT, {"prompt": CLICK, "refine": False})
    found = page.evaluate(PREDICT, {"prompt": prompt, "refine": refine})
    here, there = found["here"], found["there"]

    assert (here["by"], there["by"]) == ("browser", "server")
    assert len(here["scores"]) == count
    assert here["scores"] == pytest.approx(there["scores"], abs=1e-4)
    assert 0 < found["difference"] <= 1e-3
    assert here["chosen"] == there["chosen"]


def test_a_click_gives_the_mask_of_pythons_predictor(page, served):
    """IoU above 0.99 with each of its three masks, whose embedding was never rounded."""
    from pycocotools import mask as coco

    predictor = SamPredictor(served.viewer.prompting.model.model)
    predictor.set_image(served.viewer.prompting.images.find("1").pixels())
    masks, _, _ = predictor.predict(np.array([[60.0, 50.0]]), np.array([1]))
    expected = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    found = page.evaluate(PREDICT, {"prompt": CLICK, "refine": False})["here"]["masks"]
    ious = np.diag(coco.iou(found, expected, [0] * len(expected)))

    assert ious.min() > 0.99


def test_threads_are_to_be_had(page):
    """The headers isolate the page; nothing else was asked, and nothing complained of."""
    assert page.evaluate("() => [crossOriginIsolated, window.sessions.here.decoding.by]") == [True, "browser"]
    assert page.complaints == []
    assert len(page.hosts) == 1


def test_a_decoder_that_fails_leaves_it_to_the_server(page):
    """A worker that does not load is said, and prompts are answered all the same."""
    found = page.evaluate(
        """async (prompt) => {
            const { PromptSession } = await import("/static/prompting.js");
            const RealWorker = window.Worker;
            window.Worker = class extends EventTarget {
                constructor() {
                    super();
                    const error = Object.assign(new Event("error"), { message: "no memory" });
                    setTimeout(() => this.dispatchEvent(error));
                }
                postMessage() {}
                terminate() {}
            };
            const session = await PromptSession.start();
            window.Worker = RealWorker;
            await new Promise((resolve) => session.addEventListener("decoding", resolve, { once: true }));
            await session.open("images/1");
            const { by } = await session.predict(prompt);
            return { by, decoding: session.decoding };
        }""",
        CLICK,
    )

    assert found == {"by": "server", "decoding": {"by": "server", "why": "no memory"}}
