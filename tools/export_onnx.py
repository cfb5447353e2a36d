"""Write a model for ONNX Runtime: python -m tools.export_onnx --model tiny --output FILE."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL, MODELS
from sam_engine.config import ModelConfig
from sam_engine.files import refuse_used

from .command import run

DESCRIPTION = """Write half of a model as an ONNX file, and compare it with torch by onnxruntime.

decoder  prompt encoder and mask decoder, one prompt a call, with the names of segment_anything's models
encoder  the image encoder: RGB in [0, 255], (1, 3, H, W) with a longer side of the model's size
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, check, and print what was written."""
    parser = argparse.ArgumentParser(
        prog=called("tools.export_onnx"),
        description=DESCRIPTION,
        formatter_class=argparse.RawTextHelpFormatter,
        epilog="Exit codes: 0 written; 1 not the model's answers, nothing was written; 2 usage; 4 storage.",
    )
    parser.add_argument("--model", choices=MODELS, default=DEFAULT_MODEL, help=f"default: {DEFAULT_MODEL}")
    parser.add_argument("--checkpoint", help="known name, path or URL; default: the model's own")
    parser.add_argument("--output", type=Path, required=True, help="a new file")
    parser.add_argument("--part", choices=("decoder", "encoder"), default="decoder", help="default: decoder")
    parser.add_argument(
        "--full-size", action="store_true", help="decoder: logits of the image's size, too, from orig_im_size"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="of the weights in the file: fp16 is half the size; inputs, outputs and arithmetic are fp32",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    if options.full_size and options.part != "decoder":
        parser.error("--full-size goes with --part decoder")
    refuse_used(options.output)
    # Here and not above: --help and usage errors need no torch.
    from sam_engine.build_sam import load_model
    from sam_engine.modeling.onnx_file import export_decoder, export_encoder

    sam = load_model(ModelConfig(name=options.model, checkpoint=options.checkpoint, device="cpu"))
    if options.part == "encoder":
        summary = export_encoder(sam, options.output, precision=options.precision)
    else:
        summary = export_decoder(
            sam, options.output, full_size=options.full_size, precision=options.precision
        )
    if options.json:
        text = json.dumps(asdict(summary), indent=2)
    else:
        text = f"{summary.path}: {summary.num_bytes / 1e6:.1f} MB; largest difference from torch: "
        if summary.min_mask_iou is None:
            text += f"{summary.max_difference:.1e} of the largest value, {summary.num_checks} images"
        else:
            text += (
                f"logits {summary.max_difference:.1e}, predicted IoU {summary.max_score_difference:.1e}; "
                f"least IoU of masks {summary.min_mask_iou:.5f}, {summary.num_checks} prompts"
            )
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
