"""Look at a dataset in the browser, and segment by clicks: python -m tools.view OUT."""

import argparse
import sys
from collections.abc import Sequence

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL, MODELS
from sam_engine.config import BLURS, ModelConfig, PrivacyConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError
from sam_engine.privacy.box_table import KINDS as BOX_TABLE
from sam_engine.web.runtime import fetch_runtime

from .command import command_line

DESCRIPTION = """Serve a dataset to the browser of this machine, also while it is being made.

Prints one address with its token. Ctrl-C ends it. Needs the extra `viewer`.

Its page "Segment" makes masks of clicks and boxes. Masks are decoded in the browser once
--fetch-runtime has brought ONNX Runtime Web from npm (33 MB, of which 14 are kept, digest
checked), and if the extra `onnx` is installed; else by this program, which takes longer.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog=called("tools.view"), description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", nargs="?", help="directory that pipelines.auto_annotate writes or wrote")
    parser.add_argument("--port", type=int, default=8765, help="of 127.0.0.1; 0 for any (default 8765)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--images", help="the input, if it is not where the run found it any more")
    parser.add_argument(
        "--blur",
        choices=BLURS,
        default="none",
        help="what pictures must not show, besides what the dataset hides (default: none)",
    )
    parser.add_argument("--boxes", metavar="TABLE", help=f"of --blur boxes: {BOX_TABLE}")
    parser.add_argument(
        "--model", choices=MODELS, default=DEFAULT_MODEL, help=f"for clicks (default: {DEFAULT_MODEL})"
    )
    parser.add_argument("--checkpoint", help="its weights: known name, path or URL; default: the model's own")
    parser.add_argument("--device", default="auto", help="where it runs: auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--fetch-runtime",
        nargs="?",
        const="",
        metavar="TARBALL",
        help="bring ONNX Runtime Web first, from npm or of a tarball that `npm pack` wrote; once",
    )
    options = parser.parse_args(arguments)
    if (options.blur == "boxes") != (options.boxes is not None):
        parser.error("--blur boxes and --boxes TABLE go together")
    if options.fetch_runtime is not None:
        folder = fetch_runtime(options.fetch_runtime or None)
        sys.stderr.write(f"ONNX Runtime Web is in {folder}\n")
        if options.dataset is None:
            return 0
    if options.dataset is None:
        parser.error("give a dataset")
    privacy = PrivacyConfig(blur=options.blur, boxes=options.boxes)
    model = ModelConfig(name=options.model, checkpoint=options.checkpoint, device=options.device)
    dataset = open_dataset(options.dataset)
    try:
        from sam_engine.web.app import Viewer
        from sam_engine.web.prompting import make_prompt_model
        from sam_engine.web.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install starlette uvicorn") from error
    prompts = make_prompt_model(model)
    viewer = Viewer(dataset, images=options.images, privacy=privacy, model=prompts)
    serve(viewer, port=options.port, open_browser=not options.no_browser)
    return 0


if __name__ == "__main__":
    command_line(main)
