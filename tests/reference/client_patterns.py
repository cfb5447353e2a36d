"""What public clients of ``segment_anything`` do, one function of each kind, named after what uses it.

Each is given a package and its model, ours or the original's with the same random weights, and returns what
the client sees.
"""

import copy
import io
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.reference_models import randomise

GENERATOR = np.random.default_rng(4)
IMAGE = GENERATOR.integers(60, size=(150, 220, 3), dtype=np.uint8)
IMAGE[20:70, 30:120] += 150
IMAGE[90:140, 100:190, 1] += 90
BOXES = np.array([[30.0, 20, 120, 70], [100, 90, 190, 140]])


def module(package: Any, name: str) -> Any:
    """One of a package's modules."""
    return import_module(f"{package.__name__}.{name}")


def inputs(sam: Any, num_images: int = 1) -> torch.Tensor:
    """Images as clients make them that do their own preprocessing."""
    generator = torch.Generator().manual_seed(7)
    side = sam.image_encoder.img_size
    return torch.rand(num_images, 3, side, side, generator=generator)


def medsam(package: Any, sam: Any) -> list[Any]:
    """MedSAM infers with the three parts by hand, boxes (B, 1, 4), and a sigmoid of its own."""
    with torch.no_grad():
        embedding = sam.image_encoder(inputs(sam))
        boxes = torch.as_tensor(BOXES[:1] / 220 * 256, dtype=torch.float)[:, None, :]
        sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        logits, _ = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    return [F.interpolate(torch.sigmoid(logits), size=(150, 220), mode="bilinear").squeeze()]


def medsam_training(package: Any, sam: Any) -> list[Any]:
    """MedSAM trains encoder and decoder through the same calls: every gradient."""
    embedding = sam.image_encoder(inputs(sam))
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(None, torch.tensor([[30.0, 20, 120, 70]]), None)
    logits, iou = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
    target = (torch.arange(logits.numel()) % 3 == 0).float().view_as(logits)
    (F.binary_cross_entropy_with_logits(logits, target) + iou.square().mean()).backward()
    gradients = [parameter.grad for _, parameter in sam.named_parameters() if parameter.grad is not None]
    sam.zero_grad()
    return [torch.tensor(len(gradients)), torch.stack([gradient.norm() for gradient in gradients])]


def lightning_sam(package: Any, sam: Any) -> list[Any]:
    """lightning-sam encodes a batch, decodes image by image, and upscales by postprocess_masks."""
    with torch.no_grad():
        embeddings = sam.image_encoder(inputs(sam, 2))
        found = []
        for embedding, box in zip(embeddings, torch.as_tensor(BOXES, dtype=torch.float), strict=True):
            sparse, dense = sam.prompt_encoder(points=None, boxes=box[None], masks=None)
            low, iou = sam.mask_decoder(
                image_embeddings=embedding.unsqueeze(0),
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            found += [F.interpolate(low, (256, 256), mode="bilinear", align_corners=False), iou]
            found.append(sam.postprocess_masks(low, (175, 256), (150, 220)))
    return found


def micro_sam(package: Any, sam: Any) -> list[Any]:
    """micro-sam encodes tiles together, stores them, and puts each into the predictor later."""
    predictor = package.SamPredictor(sam)
    transform = module(package, "utils.transforms").ResizeLongestSide(sam.image_encoder.img_size)
    tiles = [IMAGE[:100, :150], IMAGE[50:, 70:]]
    pixels = [torch.as_tensor(transform.apply_image(tile)).permute(2, 0, 1).contiguous() for tile in tiles]
    with torch.no_grad():
        stored = sam.image_encoder(torch.stack([sam.preprocess(x) for x in pixels])).numpy()
    found = []
    for embedding, tile, x in zip(stored, tiles, pixels, strict=True):
        predictor.reset_image()
        predictor.features = torch.from_numpy(embedding[None])
        predictor.original_size, predictor.input_size = tile.shape[:2], tuple(x.shape[-2:])
        predictor.is_image_set = True
        found += predictor.predict(np.array([[40, 30]]), np.array([1]), return_logits=True)
    return found


def grounded_sam(package: Any, sam: Any) -> list[Any]:
    """Grounded-SAM and FiftyOne: many detected boxes, transformed and answered together."""
    predictor = package.SamPredictor(sam)
    predictor.set_image(IMAGE[..., ::-1], image_format="BGR")
    boxes = predictor.transform.apply_boxes_torch(torch.as_tensor(BOXES), IMAGE.shape[:2]).to(sam.device)
    masks, scores, logits = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=boxes, multimask_output=False
    )
    return [masks, scores, logits]


def track_anything(package: Any, sam: Any) -> list[Any]:
    """Track-Anything and Inpaint-Anything: a click, then the best logits with clicks and box."""
    predictor = package.SamPredictor(sam)
    predictor.set_image(IMAGE)
    masks, scores, logits = predictor.predict(np.array([[75, 45]]), np.array([1]), multimask_output=True)
    refined = predictor.predict(
        point_coords=np.array([[75, 45], [150, 120]]),
        point_labels=np.array([1, 0]),
        box=BOXES[0],
        mask_input=logits[np.argmax(scores)][None, :, :],
        multimask_output=True,
        return_logits=True,
    )
    return [masks, scores, *refined]


def label_studio(package: Any, sam: Any) -> list[Any]:
    """label-studio-ml caches the embedding with its sizes, and predicts with integer coordinates."""
    predictor = package.SamPredictor(sam)
    predictor.set_image(IMAGE)
    cache = (predictor.get_image_embedding().clone(), predictor.original_size, predictor.input_size)
    predictor.set_image(IMAGE[::-1])
    predictor.features, predictor.original_size, predictor.input_size = cache
    return list(predictor.predict(np.array([[75, 45]], dtype=np.int64), np.array([1]), return_logits=True))


def helpers_of_amg(package: Any, sam: Any) -> list[Any]:
    """micro-sam and samgeo build a generator of their own from the helpers."""
    amg = module(package, "utils.amg")
    predictor = package.SamPredictor(sam)
    crops, layers = amg.generate_crop_boxes(IMAGE.shape[:2], 1, 512 / 1500)
    grids = amg.build_all_layer_point_grids(3, 1, 1)
    data = amg.MaskData()
    for crop, layer in zip(crops[:2], layers[:2], strict=True):
        pixels = IMAGE[crop[1] : crop[3], crop[0] : crop[2]]
        predictor.set_image(pixels)
        points = grids[layer] * np.array(pixels.shape[:2])[None, ::-1]
        for (batch,) in amg.batch_iterator(4, points):
            coords = torch.as_tensor(predictor.transform.apply_coords(batch, pixels.shape[:2]))
            labels = torch.ones(len(coords), dtype=torch.int)
            logits, iou, _ = predictor.predict_torch(coords[:, None], labels[:, None], return_logits=True)
            found = amg.MaskData(masks=logits.flatten(0, 1), iou_preds=iou.flatten(0, 1))
            found["stability_score"] = amg.calculate_stability_score(found["masks"], 0.0, 1.0)
            found["boxes"] = amg.uncrop_boxes_xyxy(amg.batched_mask_to_box(found["masks"] > 0), crop)
            found["points"] = amg.uncrop_points(torch.as_tensor(batch.repeat(3, axis=0)), crop)
            near = amg.is_box_near_crop_edge(found["boxes"], crop, [0, 0, 220, 150])
            found["near"] = near.float()
            masks = amg.uncrop_masks(found["masks"] > 0, crop, 150, 220)
            found["area"] = torch.tensor([amg.area_from_rle(rle) for rle in amg.mask_to_rle_pytorch(masks)])
            del found["masks"]
            data.cat(found)
    data.filter(torch.arange(0, 54, 2))
    data.to_numpy()
    columns = dict(data.items())
    # What a pixel at the threshold changes is compared by its mean alone.
    shaky = [columns.pop(name).mean() for name in ("boxes", "near", "area")]
    return [*(columns[name] for name in sorted(columns)), np.array(shaky)]


def sam_adapter(package: Any, sam: Any) -> list[Any]:
    """SAM-Adapter and SAMed build networks of other sizes and classes from the parts."""
    modeling = module(package, "modeling")
    torch.manual_seed(0)
    encoder = modeling.ImageEncoderViT(
        img_size=128, embed_dim=24, depth=2, num_heads=2, out_chans=32, use_rel_pos=True, window_size=3,
        norm_layer=nn.LayerNorm, act_layer=nn.GELU, qkv_bias=False, mlp_ratio=2, global_attn_indexes=[1],
    )  # fmt: skip
    prompts = modeling.PromptEncoder(32, (8, 8), (128, 128), 16, nn.ReLU)
    transformer = modeling.TwoWayTransformer(2, 32, 4, 48, nn.GELU, 1)
    decoder = modeling.MaskDecoder(
        transformer_dim=32, transformer=transformer, num_multimask_outputs=5, activation=nn.SiLU
    )
    made = modeling.Sam(encoder, prompts, decoder, [0, 0, 0], [1, 1, 1]).eval()
    randomise(made, seed=2)
    predictor = package.SamPredictor(made)
    predictor.set_image(IMAGE)
    return list(predictor.predict(box=BOXES[0], return_logits=True))


def multi_class(package: Any, sam: Any) -> list[Any]:
    """micro-sam's semantic models: more masks than three, and the plain layers, which stay fast."""
    modeling = module(package, "modeling")
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=64, num_heads=8, mlp_dim=96)
    made = copy.deepcopy(sam)
    made.mask_decoder = modeling.MaskDecoder(
        transformer_dim=64, transformer=transformer, num_multimask_outputs=7, iou_head_hidden_dim=40
    )
    randomise(made, seed=2)
    predictor = package.SamPredictor(made.eval())
    predictor.set_image(IMAGE)
    return list(predictor.predict(box=BOXES[0], return_logits=True))


def hq_sam(package: Any, sam: Any) -> list[Any]:
    """HQ-SAM subclasses the decoder, with a token of its own, and reads what its parent made."""
    modeling = module(package, "modeling")

    class Decoder(modeling.MaskDecoder):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__(
                transformer_dim=64,
                transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=96, num_heads=8),
                num_multimask_outputs=3,
                activation=nn.GELU,
                iou_head_depth=3,
                iou_head_hidden_dim=40,
            )
            self.hf_token = nn.Embedding(1, self.transformer_dim)

        def predict_masks(
            self,
            image_embeddings: Any,
            image_pe: Any,
            sparse_prompt_embeddings: Any,
            dense_prompt_embeddings: Any,
        ) -> Any:
            sparse = torch.cat([sparse_prompt_embeddings, self.hf_token.weight[None]], dim=1)
            return super().predict_masks(image_embeddings, image_pe, sparse, dense_prompt_embeddings)

    made = copy.deepcopy(sam)
    made.mask_decoder = Decoder()
    randomise(made, seed=2)
    predictor = package.SamPredictor(made.eval())
    predictor.set_image(IMAGE)
    return list(predictor.predict(box=BOXES[0], return_logits=True))


def three_dimensional(package: Any, sam: Any) -> list[Any]:
    """micro-sam's 3D wrapper walks through a block's parts, with the window functions by name."""
    encoder = module(package, "modeling.image_encoder")
    block = sam.image_encoder.blocks[0]
    with torch.no_grad():
        x = sam.image_encoder.patch_embed(inputs(sam, 2)) + sam.image_encoder.pos_embed
        shortcut, x = x, block.norm1(x)
        height, width = x.shape[1:3]
        x, padded = encoder.window_partition(x, block.window_size)
        x = encoder.window_unpartition(block.attn(x), block.window_size, padded, (height, width))
        x = shortcut + x
        x = x + block.mlp(block.norm2(x))
        table = encoder.get_rel_pos(6, 9, block.attn.rel_pos_h)
        q = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1))
        scores = encoder.add_decomposed_rel_pos(
            (q * block.attn.scale) @ q.transpose(1, 2),
            q,
            block.attn.rel_pos_h,
            block.attn.rel_pos_w,
            (4, 5),
            (4, 5),
        )
    return [x, table, scores]


def intermediate_features(package: Any, sam: Any) -> list[Any]:
    """SAM-CLIP, HQ-SAM and explainers read blocks and decoder layers by hooks that change nothing."""
    seen: list[torch.Tensor] = []
    parts = [*sam.image_encoder.blocks, sam.image_encoder.neck, sam.mask_decoder.transformer.layers[0].norm4]
    handles = [part.register_forward_hook(lambda m, args, output: seen.append(output)) for part in parts]
    predictor = package.SamPredictor(sam)
    predictor.set_image(IMAGE)
    predictor.predict(box=BOXES[0])
    for handle in handles:
        handle.remove()
    return seen


def parameter_groups(package: Any, sam: Any) -> list[Any]:
    """Fine-tuners freeze by name, and load optimisers by position."""
    names = [name for name, _ in sam.named_parameters()]
    buffers = [name for name, _ in sam.named_buffers()]
    sizes = [value.numel() for value in sam.state_dict().values()]
    letters = [ord(letter) for letter in "".join(names + buffers + list(sam.state_dict()))]
    return [np.array(letters), np.array(sizes)]


def saved_states(package: Any, sam: Any) -> list[Any]:
    """Weights go out by torch.save and come back by load_state_dict(strict=True)."""
    buffer = io.BytesIO()
    torch.save(sam.state_dict(), buffer)
    buffer.seek(0)
    other = copy.deepcopy(sam)
    randomise(other, seed=9)
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    predictor = package.SamPredictor(other)
    predictor.set_image(IMAGE)
    return list(predictor.predict(box=BOXES[0], return_logits=True))


def positions(package: Any, sam: Any) -> list[Any]:
    """PerSAM and prompt learners embed points and positions by the encoder's inner methods."""
    encoder = sam.prompt_encoder
    points, labels = torch.tensor([[[40.0, 30], [99.5, 7]]]), torch.tensor([[1, 0]])
    with torch.no_grad():
        found = [
            encoder._embed_points(points, labels, True),
            encoder._embed_boxes(torch.tensor([[5.0, 6, 70, 80]])),
            encoder._embed_masks(torch.ones(2, 1, 64, 64)),
            encoder.pe_layer.forward_with_coords(points, (256, 256)),
            encoder.pe_layer._pe_encoding(points / 256),
            encoder.pe_layer((5, 9)),
            *encoder(points=(points, labels), boxes=None, masks=None),
            sam.mask_decoder.transformer.layers[0].self_attn._separate_heads(torch.ones(2, 3, 64), 8),
        ]
    sizes = [encoder._get_batch_size(None, torch.ones(3, 4), None), encoder._get_batch_size(None, None, None)]
    return [*found, torch.tensor([*sizes, encoder.num_point_embeddings])]


def own_postprocessing(package: Any, sam: Any) -> list[Any]:
    """RobustSAM and edge refiners replace postprocess_masks; the generator's masks are made by it, too."""
    made = copy.deepcopy(sam)
    upscale = made.postprocess_masks
    made.postprocess_masks = lambda masks, input_size, original_size: (
        upscale(masks, input_size, original_size) + 0.05
    )
    generator = package.SamAutomaticMaskGenerator(
        made, points_per_side=4, pred_iou_thresh=0.1, stability_score_thresh=0.0, box_nms_thresh=1.0
    )
    predictor = package.SamPredictor(made)
    predictor.set_image(IMAGE)
    records = generator.generate(IMAGE)
    return [
        *predictor.predict(box=BOXES[0], return_logits=True),
        np.array([record["segmentation"] for record in records]),
        np.array([record["area"] / 33000 for record in records]),
    ]


def reversed_channels(package: Any, sam: Any) -> list[Any]:
    """Models trained on BGR say so by image_format; generator and predictor turn RGB round for them."""
    made = copy.deepcopy(sam)
    made.image_format = "BGR"
    generator = package.SamAutomaticMaskGenerator(
        made, points_per_side=4, pred_iou_thresh=0.1, stability_score_thresh=0.0, box_nms_thresh=1.0
    )
    predictor = package.SamPredictor(made)
    predictor.set_image(IMAGE)
    scores = np.array([record["predicted_iou"] for record in generator.generate(IMAGE)])
    return [*predictor.predict(box=BOXES[0], return_logits=True), scores]


PATTERNS: list[Callable[[Any, Any], list[Any]]] = [
    medsam,
    medsam_training,
    lightning_sam,
    micro_sam,
    grounded_sam,
    track_anything,
    label_studio,
    helpers_of_amg,
    sam_adapter,
    multi_class,
    hq_sam,
    three_dimensional,
    intermediate_features,
    parameter_groups,
    saved_states,
    positions,
    own_postprocessing,
    reversed_channels,
]
