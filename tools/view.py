"""Look at a dataset in the browser: python -m tools.view OUT."""

import argparse
from collections.abc import Sequence

from sam_engine.__main__ import called
from sam_engine.config import BLURS, PrivacyConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError
from sam_engine.privacy.box_table import KINDS as BOX_TABLE

from .command import command_line

DESCRIPTION = """Serve a dataset to the browser of this machine, also while it is being made.

Prints one address with its token. Ctrl-C ends it. Needs the extra `viewer`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog=called("tools.view"), description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", help="directory that pipelines.auto_annotate writes or wrote")
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
    options = parser.parse_args(arguments)
    if (options.blur == "boxes") != (options.boxes is not None):
        parser.error("--blur boxes and --boxes TABLE go together")
    privacy = PrivacyConfig(blur=options.blur, boxes=options.boxes)
    dataset = open_dataset(options.dataset)
    try:
        from sam_engine.web.app import Viewer
        from sam_engine.web.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install starlette uvicorn") from error
    viewer = Viewer(dataset, images=options.images, privacy=privacy)
    serve(viewer, port=options.port, open_browser=not options.no_browser)
    return 0


if __name__ == "__main__":
    command_line(main)
