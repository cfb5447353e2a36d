"""From bare photos to a better-fed model: drawn in the browser, learnt from, scored before and after."""

import json

import pytest
from PIL import Image

from sam_engine.config import ModelConfig
from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.corrections import Stage, is_exhaustive
from sam_engine.dataset.reader import open_dataset
from sam_engine.storage.embedding_cache import EmbeddingCache
from sam_engine.web.app import Viewer
from sam_engine.web.prompting import PromptModel
from tests.helpers.drawn_data import draw, write_tar
from tests.web.conftest import serving
from tests.web.test_annotate_page import wait_saved
from tools import annotate, apply_corrections

pytestmark = pytest.mark.slow


def draw_a_mask(page):
    """Drag a brush across the middle of the image, and keep it."""
    box = page.locator(".workspace.annotate .stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.keyboard.press("b")
    page.mouse.move(x - 80, y)
    page.mouse.down()
    page.mouse.move(x + 80, y, steps=4)
    page.mouse.up()
    page.keyboard.press("Enter")
    wait_saved(page)


def scores(weights, truth, output):
    """Evaluate weights on a tar; return the scores of prompts."""
    from pipelines import evaluate
    from sam_engine.evaluation.config import EvaluateConfig

    model = ModelConfig(checkpoint=weights, device="cpu")
    settings = EvaluateConfig(
        model=model, truth=[str(truth)], parts=["prompts"], output=str(output), plots=False, threads=1
    )
    assert evaluate.run(settings) == 0
    [found] = json.loads((output / "scores.json").read_text())["scores"].values()
    return found["prompts"]


def test_photos_are_drawn_learnt_from_and_scored(watched_page, tmp_path):
    """Assisted-manual image, semi-automatic image, log, new version, a training step, evaluation twice."""
    from pipelines import train
    from sam_engine.training.config import DataConfig, TrainConfig

    page = watched_page
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.fromarray(draw(number)[0]).save(tmp_path / f"photos/{number}.png")
    annotate.begin_bare(str(tmp_path / "photos"), str(tmp_path / "data"))
    model = PromptModel(ModelConfig(device="cpu"), EmbeddingCache(tmp_path / "embeddings"))
    viewer = Viewer(open_dataset(tmp_path / "data"), model=model)
    with serving(viewer) as served:
        page.goto(served.url)
        for number, stage in enumerate(("manual", "semi")):
            page.evaluate(f"sessionStorage.setItem('annotate stage', '{stage}')")
            page.goto(f"http://127.0.0.1:{served.port}/#/annotate/{number}")
            page.wait_for_selector(f".workspace[data-image='{number}']")
            draw_a_mask(page)
            page.keyboard.press("d")
            page.wait_for_function(f"() => !document.querySelector(`.workspace[data-image='{number}']`)")
            page.goto(f"http://127.0.0.1:{served.port}/#/statistics")
    said = read_corrections(tmp_path / "data")
    assert apply_corrections.main([str(tmp_path / "data"), "--output", str(tmp_path / "version2")]) == 0
    truth = write_tar(tmp_path / "eval.tar", [5])
    before = scores(None, truth, tmp_path / "before")
    settings = TrainConfig(
        output=str(tmp_path / "run"),
        init_checkpoint=str(model.checkpoint.path),
        data=DataConfig(sources=[str(tmp_path / "version2")]),
        total_steps=2,
        images_per_step=1,
        prompts_per_image=2,
        image_size=64,
        threads=1,
    )
    assert train.run(settings) == 0
    after = scores(str(tmp_path / "run/model.safetensors"), truth, tmp_path / "after")

    assert [said[number][0].stage for number in (0, 1)] == [Stage.MANUAL, Stage.SEMI]
    assert all(is_exhaustive(lines) for lines in said.values())
    assert [len(row.annotations) for row in open_dataset(tmp_path / "version2").records()] == [1, 1]
    assert before.keys() == after.keys()
    assert before != after
