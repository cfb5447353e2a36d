"""Runs a real client over a small model of ours, or of ``segment_anything`` 1.0, and writes what it gives.

A program of its own, because an import of ``segment_anything`` cannot be undone:

    python -m tests.reference.client_runs ours|original CLIENT WEIGHTS OUTPUT.npz FOLDER...

Folders are those that clients are installed in. Of torchvision there is the stand-in of `tools.reference`,
with a name more that micro-sam imports and does not use here.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import Architecture
from tests.helpers.reference_models import SMALL
from tools.reference import build_reference, import_segment_anything, stand_in_modules

SETTINGS: dict[str, Any] = {
    "points_per_side": 5,
    "pred_iou_thresh": 0.1,
    "stability_score_thresh": 0.3,
    "stability_score_offset": 0.02,
    "box_nms_thresh": 1.0,
}


def architecture_of(client: str) -> Architecture:
    """Return the sizes of the model that a client is given; Cellpose takes for granted 64 x 64 positions."""
    return replace(SMALL, image_size=1024, depth=2) if client == "cellpose" else SMALL


def image() -> Any:
    """Blobs on noise, RGB."""
    pixels = np.random.default_rng(4).integers(60, size=(150, 220, 3), dtype=np.uint8)
    pixels[20:70, 30:120] += 150
    pixels[90:140, 100:190, 1] += 90
    return pixels


def segment_geospatial(package: Any, sam: Any) -> list[Any]:
    """SamGeo's labels of the whole image, and its masks of prompts."""
    from samgeo.samgeo import SamGeo

    automatic = SamGeo("vit_b", checkpoint=__file__, device="cpu", sam_kwargs=SETTINGS)
    automatic.generate(image(), unique=True)
    prompted = SamGeo("vit_b", automatic=False, checkpoint=__file__, device="cpu")
    prompted.set_image(image())
    masks, scores, logits = prompted.predict(
        np.array([[75, 45]]), np.array([1]), multimask_output=True, return_results=True
    )
    return [np.asarray(automatic.objects) > 0, masks, scores, logits]


def supervision(package: Any, sam: Any) -> list[Any]:
    """Detections made of the generator's records, dense and of run lengths."""
    import supervision as sv

    found = []
    for mode in ("binary_mask", "coco_rle"):
        generator = package.SamAutomaticMaskGenerator(sam, output_mode=mode, **SETTINGS)
        detections = sv.Detections.from_sam(sam_result=generator.generate(image()))
        found += [np.asarray(detections.mask), detections.box_area.sum(keepdims=True)]
    return found


def cellpose(package: Any, sam: Any) -> list[Any]:
    """Cellpose-SAM's network: patches of 8 pixels, and attention to all tokens everywhere."""
    from cellpose.vit import CPSAM

    torch.manual_seed(0)
    network = CPSAM(bsize=128).eval()
    with torch.no_grad():
        pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
        flows, _ = network(pixels)
    return [flows.numpy()]


def micro_sam(package: Any, sam: Any) -> list[Any]:
    """micro-sam's embeddings, whole and in tiles, prompts on them, its own mask generator, and its LoRA."""
    from micro_sam import instance_segmentation, util
    from micro_sam.models.peft_sam import PEFT_Sam
    from micro_sam.prompt_based_segmentation import segment_from_box, segment_from_points

    predictor = package.SamPredictor(sam)
    predictor.model_type = predictor.model_name = "vit_b"
    whole = util.precompute_image_embeddings(predictor, image(), ndim=2, verbose=False)
    found = [whole["features"]]
    util.set_precomputed(predictor, whole)
    found.append(segment_from_points(predictor, np.array([[45, 75]]), np.array([1])))
    found.append(segment_from_box(predictor, np.array([20, 30, 70, 120])))
    generator = instance_segmentation.AutomaticMaskGenerator(predictor, points_per_side=5)
    generator.initialize(image(), whole, verbose=False)
    for records in (generator.crop_list,):
        for data in records:
            found += [data["iou_preds"], data["stability_score"]]
    torch.manual_seed(0)
    adapted = PEFT_Sam(sam, rank=4).sam
    for name, parameter in adapted.named_parameters():
        if "w_b_linear" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    predictor = package.SamPredictor(adapted.eval())
    predictor.set_image(image())
    return [
        *found,
        predictor.features,
        *predictor.predict(box=np.array([30, 20, 120, 70]), return_logits=True),
    ]


def peft(package: Any, sam: Any) -> list[Any]:
    """Hugging Face's PEFT: LoRA on the projections of encoder and decoder."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        sam, LoraConfig(r=4, target_modules=["qkv", "q_proj", "v_proj"])
    ).base_model.model
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    predictor = package.SamPredictor(adapted.eval())
    predictor.set_image(image())
    return [predictor.features, *predictor.predict(np.array([[75, 45]]), np.array([1]), return_logits=True)]


def autodistill_segment_anything(package: Any, sam: Any) -> list[Any]:
    """What stands on top of the generator and supervision."""
    import autodistill_segment_anything

    del autodistill_segment_anything
    return supervision(package, sam)


CLIENTS: dict[str, Callable[[Any, Any], list[Any]]] = {
    run.__name__: run
    for run in (segment_geospatial, supervision, cellpose, micro_sam, peft, autodistill_segment_anything)
}


def main(which: str, client: str, weights: str, output: str, *folders: str) -> None:
    """Run one client."""
    sys.path += folders
    if which == "ours":
        import sam_engine

        sam_engine.install_as_segment_anything()
    else:
        import_segment_anything()
    if client == "micro_sam":  # others would take it for a real torchvision
        modules = stand_in_modules()
        modules["torchvision.utils"] = ModuleType("torchvision.utils")
        vars(modules["torchvision.utils"])["make_grid"] = None
        modules["torchvision"].__path__ = []
        sys.modules.update(modules)
    package = sys.modules["segment_anything"]
    state = torch.load(weights)

    def build(checkpoint: Any = None) -> Any:
        sizes = architecture_of(client)
        sam = build_architecture(sizes) if which == "ours" else build_reference(package, sizes)
        sam.load_state_dict(state)
        return sam

    package.sam_model_registry |= dict.fromkeys(("vit_b", "vit_l", "vit_h"), build)
    found = CLIENTS[client](package, build() if state else None)
    np.savez(output, *[x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in found])


if __name__ == "__main__":
    main(*sys.argv[1:])
