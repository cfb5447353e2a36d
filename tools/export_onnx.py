"""Write a model for ONNX Runtime: python -m tools.export_onnx --model tiny --output FILE."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL, MODELS
from sam_engine.config import ModelConfig
from sam_engine.files import refuse_used

from .command import command_line

if TYPE_CHECKING:
    from sam_engine.modeling.onnx_file import ExportSummary

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
        "--split",
        action="store_true",
        help="decoder in two files, OUTPUT-image.onnx for each image (again with a mask to refine) and\n"
        "OUTPUT-prompt.onnx for each prompt, which takes about half the time",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the weights in the file: fp16 is half the size, arithmetic stays fp32; with int8\n"
        "matrices are multiplied in integers, and masks differ: their IoU is printed",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    if (options.full_size or options.split) and options.part != "decoder":
        parser.error("--full-size and --split go with --part decoder")
    if options.full_size and options.split:
        parser.error("--full-size does not go with --split: bring low_res_masks to the image's size")
    # Here and not above: --help and usage errors need no torch.
    from sam_engine.build_sam import load_model
    from sam_engine.modeling.onnx_file import export_decoder, export_encoder, export_split, split_paths

    for path in split_paths(options.output) if options.split else (options.output,):
        refuse_used(path)
    sam = load_model(ModelConfig(name=options.model, checkpoint=options.checkpoint, device="cpu"))
    output, precision = options.output, options.precision
    if options.part == "encoder":
        summary = export_encoder(sam, output, precision=precision)
    elif options.split:
        summary = export_split(sam, output, precision=precision)
    else:
        summary = export_decoder(sam, output, full_size=options.full_size, precision=precision)
    text = json.dumps(asdict(summary), indent=2) if options.json else describe(summary)
    sys.stdout.write(text + "\n")
    return 0


def describe(summary: "ExportSummary") -> str:
    """Return a line for each file, and one of how far they are from torch."""
    lines = [f"{path}: {num_bytes / 1e6:.1f} MB" for path, num_bytes in summary.num_bytes.items()]
    difference = f"largest difference from torch over {summary.num_checks}"
    if summary.min_mask_iou is None:
        return "\n".join([*lines, f"{difference} images: {summary.max_difference:.1e} of the largest value"])
    found = f"logits {summary.max_difference:.1e}, predicted IoU {summary.max_score_difference:.1e}"
    ious = f"IoU of masks {summary.min_mask_iou:.5f} at least, {summary.mean_mask_iou:.5f} in the mean"
    return "\n".join([*lines, f"{difference} prompts: {found}; {ious}"])


if __name__ == "__main__":
    command_line(main)
