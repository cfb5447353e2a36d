"""The pipeline without a command line, for tests."""

import json

from pipelines.auto_annotate import run
from tests.helpers import fakes


def annotate(folder, output, **settings):
    config = fakes.run_settings(input=str(folder), output=str(output), **settings)
    return run(config, fakes.make_troubled_segmenter)


def read_json(output, name):
    return json.loads((output / name).read_text())
