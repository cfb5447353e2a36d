"""The one row of each model."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

from sam_engine.build_sam import ENCODERS, sam_model_registry
from sam_engine.catalogue import ARCHITECTURES, FAMILIES, MODELS
from sam_engine.checkpoints.layouts import MARKERS

ARCHITECTURE_DIGESTS = {
    "tiny": "4f6e9823936cbe50",
    "vit_b": "fefa261ab31131d4",
    "vit_l": "06929b59ba048206",
    "vit_h": "b6a7a4203b66e136",
}
"""sha256 of their JSON, begun; what fingerprints of datasets are made of. tiny looks at 800 pixels now."""


@pytest.mark.parametrize("name", MODELS)
def test_architecture_is_that_of_the_datasets_on_disk(name: str) -> None:
    """A dataset that was begun goes on only while the fields and values of its model's sizes stay."""
    fields = json.dumps(dataclasses.asdict(ARCHITECTURES[name]), sort_keys=True)

    assert hashlib.sha256(fields.encode()).hexdigest()[:16] == ARCHITECTURE_DIGESTS[name]


def test_every_family_has_its_network_and_its_layout() -> None:
    """What the catalogue names can be built, and recognised in a file."""
    assert set(ENCODERS) == set(MARKERS) == set(FAMILIES)
    assert all(encoder.family is FAMILIES[name] for name, encoder in ENCODERS.items())


def test_every_model_can_be_built_by_name() -> None:
    """The registry has all rows, and the original's default."""
    assert set(sam_model_registry) == {"default", *MODELS}


def test_the_catalogue_is_read_without_torch() -> None:
    """Settings are checked against it before torch is loaded."""
    code = "import sys, sam_engine.catalogue; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
