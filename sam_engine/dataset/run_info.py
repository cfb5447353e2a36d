"""What a run is: the settings that decide its bytes, their digest, and the files that say so.

Two runs with one fingerprint make the same dataset, so a second may go on where the first stopped. Another
fingerprint never touches it.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.schema import SCHEMA_VERSION
from sam_engine.errors import FingerprintError, ShardError
from sam_engine.settings.checks import settings_from

CONFIG = "_meta/config.yaml"
TABLE_SHA256 = "image_table_sha256"
"""Of a run's selection, where it has an image table."""

DECODE_SETTINGS = (
    "strict",
    "max_pixels",
    "max_side",
    "max_file_bytes",
    "exif",
    "background",
    "scale",
    "bands",
)
"""Those that decide pixels or statuses."""

ADDED_LATER = ("points_per_row", "points_per_column", "scale", "bands")
"""Settings that datasets made before do not know: in the fingerprint only where set."""

NO_LONGER_DECIDING = {"amg.points_per_batch": 64}
"""Settings that change no byte but were in the fingerprint once, with what stands for them there."""

_PACKAGES = (
    "sam-engine",
    "torch",
    "numpy",
    "numba",
    "pyarrow",
    "pillow",
    "opencv-python-headless",
    "simplejpeg",
    "ray",
)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The content of ``_meta/run.json``."""

    settings: Mapping[str, Any]
    """All that decides the bytes of the shards, by dotted key; JSON values."""
    selection: Mapping[str, Any]
    """How the manifest came about: input, limit, sample, seed. Not in the fingerprint: the manifest is."""
    random_weights: bool
    """The model was never trained: the masks are for testing programs, not for use."""
    num_images: int
    num_shards: int
    versions: Mapping[str, str]
    segments: Sequence[Mapping[str, Any]] = ()
    """What was appended to the manifest since: ``start`` and ``stop``, the images; ``shard_size``; and
    ``manifest_sha256``, of the manifest up to there. Not in the fingerprint: that is what the dataset began
    with, and what all its shards carry."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings."""
        settings = {**NO_LONGER_DECIDING, **self.settings}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def succeeding(self, there: "RunInfo") -> Self:
        """Return it with what an earlier version has on record of settings that decide nothing."""
        kept = {key: there.settings[key] for key in NO_LONGER_DECIDING if key in there.settings}
        return dataclasses.replace(self, settings={**self.settings, **kept})

    def to_json(self) -> bytes:
        """Return the file."""
        document = {"fingerprint": self.fingerprint, **dataclasses.asdict(self)}
        if not self.segments:  # as before there were any
            del document["segments"]
        return (json.dumps(document, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return what `to_json` wrote.

        Raises:
            ShardError: The file is damaged, or was edited.
        """
        try:
            document = json.loads(data)
            fingerprint = document.pop("fingerprint")
            info = cls(**document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShardError(f"_meta/run.json is damaged: {error}") from error
        if info.fingerprint != fingerprint:
            raise ShardError("_meta/run.json is damaged: its settings do not match its fingerprint")
        return info


def deciding_settings(
    config: AutoAnnotateConfig,
    *,
    architecture: Mapping[str, Any],
    checkpoint_sha256: str | None,
    manifest_sha256: str,
    shard_size: int,
    extras: Sequence[str] = (),
    prompts_sha256: str | None = None,
    hidden_sha256: str | None = None,
) -> dict[str, Any]:
    """Return what goes into the fingerprint.

    Device, number of workers and the like are not in it: they may change between a run and its resumption.

    Args:
        config: Of the run.
        architecture: Sizes of the model.
        checkpoint_sha256: Of the weights' file; None for untrained ones.
        manifest_sha256: Of the frozen manifest.
        shard_size: Images per shard.
        extras: Optional columns of the dataset.
        prompts_sha256: Of the table that ``amg.prompts`` names.
        hidden_sha256: Of what stored images must not show.
    """
    prompts = {} if prompts_sha256 is None else {"amg.prompts_sha256": prompts_sha256}
    columns = {"extras": list(extras)} if extras else {}
    stored = {"store_images": True, "privacy.sha256": hidden_sha256} if config.store_images else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "model.name": config.model.name,
        # As it will be read back: JSON has no tuples.
        "model.architecture": json.loads(json.dumps(dict(architecture))),
        "model.checkpoint_sha256": checkpoint_sha256,
        "model.precision": config.model.precision,
        **{
            f"amg.{name}": value
            for name, value in dataclasses.asdict(config.amg).items()
            if f"amg.{name}" not in NO_LONGER_DECIDING
            and name != "prompts"
            and (value is not None or name not in ADDED_LATER)
        },
        **prompts,
        **{
            f"decode.{name}": getattr(config.decode, name)
            for name in DECODE_SETTINGS
            if getattr(config.decode, name) or name not in ADDED_LATER
        },
        "executor.threads_per_worker": config.executor.threads_per_worker,
        "shard_size": shard_size,
        "manifest_sha256": manifest_sha256,
        **columns,
        **stored,
    }


def selection_settings(config: AutoAnnotateConfig, root: str) -> dict[str, Any]:
    """Return how the manifest came about; ``root`` is where the input was found."""
    later = {f"video.{name}": value for name, value in dataclasses.asdict(config.video).items()}
    later["input_column"] = config.input_column
    return {
        "input": root,
        "limit": config.limit,
        "sample": config.sample,
        "seed": config.seed,
        **{name: value for name, value in later.items() if value is not None},  # older datasets know none
    }


def refuse_difference(output: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise unless two sets of settings are equal.

    Raises:
        FingerprintError: Naming every key that differs, with both values.
    """
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if keys:
        differences = "; ".join(
            f"{key} is {json.dumps(there.get(key))} there and {json.dumps(here.get(key))} here"
            for key in keys
        )
        raise FingerprintError(
            f"output {output} holds the dataset of another configuration: {differences}. "
            "Give another output=, or its settings"
        )


def config_yaml(config: object, indent: str = "") -> str:
    """Return a configuration as YAML. Values are JSON, which YAML contains."""
    lines = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            lines.append(f"{indent}{field.name}:\n{config_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{field.name}: {json.dumps(value)}\n")
    return "".join(lines)


def read_config(data: bytes) -> AutoAnnotateConfig:
    """Return the configuration that `config_yaml` wrote; of YAML it reads only what that writes.

    Raises:
        ShardError: The file is damaged, or has settings that this program does not know.
    """
    document: dict[str, Any] = {}
    levels = [document]
    try:
        for line in data.decode().splitlines():
            key, colon, value = line.lstrip(" ").partition(":")
            depth = (len(line) - len(line.lstrip(" "))) // 2
            levels[depth + 1 :] = []
            levels[depth][key] = json.loads(value) if value or not colon else {}
            if not value:
                levels.append(levels[depth][key])
        config = settings_from(AutoAnnotateConfig, document)
    except (ValueError, TypeError, IndexError) as error:
        raise ShardError(f"{CONFIG} is damaged, or of another version: {error}") from error
    return config


def version_notes(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Say which versions have changed since the dataset was started; that is no reason to refuse it."""
    changed = [
        f"{name} {there.get(name, 'absent')} -> {here.get(name, 'absent')}"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if not changed:
        return []
    return [f"versions have changed since the dataset was started, and masks may too: {', '.join(changed)}"]


def library_versions() -> dict[str, str]:
    """Return the versions that shards may depend on, without importing anything."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
