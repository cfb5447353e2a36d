"""Where the images of a dataset are, also of one merged of several: each input under a folder."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, InputError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, InputFile, InputSource, ListingRules
from sam_engine.structures import ImageStatus, ManifestEntry

_SHOWN = ("decode.background", "decode.scale", "decode.bands")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MergedInput:
    """Several inputs, whose images are named ``prefix/path``. Made by `open_run_input`."""

    parts: Mapping[str, InputSource]
    """By prefix."""

    @property
    def name(self) -> str:
        """Of all."""
        return "merged"

    @property
    def root(self) -> str:
        """The inputs, for messages."""
        return ", ".join(f"{prefix}: {part.root}" for prefix, part in self.parts.items())

    def iter_files(self, account: Account | None = None) -> Iterator[InputFile]:
        """Yield every image of every input once."""
        for prefix, part in self.parts.items():
            for file in part.iter_files(account):
                yield dataclasses.replace(file, path=prefix.encode() + b"/" + file.path)

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return one image's bytes, from the input that its path names."""
        for prefix, part in self.parts.items():
            folder = prefix.encode() + b"/"
            if entry.path.startswith(folder):
                inner = entry.path.removeprefix(folder)
                return part.read(dataclasses.replace(entry, path=inner), config)
        raise ImageError(ImageStatus.VANISHED, "its input is gone")


def inputs_of(run_info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return where images are by prefix of their paths, with how they were listed and are shown.

    A dataset of one input has it under the empty prefix.
    """
    settings, selection = (run_info.get(key) or {} for key in ("settings", "selection"))
    if isinstance(inputs := selection.get("inputs"), dict):
        return {str(prefix): dict(spec) for prefix, spec in inputs.items()}
    return {
        "": {
            "input": selection.get("input"),
            "input_column": selection.get("input_column"),
            "shown": {key: settings[key] for key in _SHOWN if key in settings},
        }
    }


def shown_as(run_info: Mapping[str, Any], path: bytes) -> DecodeConfig:
    """Return the settings that decide how the pixels of an image look: background, scale and bands."""
    for prefix, spec in inputs_of(run_info).items():
        if not prefix or path.startswith(prefix.encode() + b"/"):
            return DecodeConfig(
                **{key.removeprefix("decode."): value for key, value in spec["shown"].items()}
            )
    return DecodeConfig()


def open_run_input(run_info: Mapping[str, Any], images: str | None = None) -> InputSource:
    """Return the input that a dataset was made from. Nothing is listed yet.

    Args:
        run_info: Of the dataset.
        images: Where the images are now, if not there any more: whatever ``input=`` takes. Of a merged
            dataset a folder with one folder for each prefix.

    Raises:
        InputError: It is gone, or nobody said where it is.
    """
    parts: dict[str, InputSource] = {}
    problems = []
    inputs = {"": {"input": images}} if images is not None else inputs_of(run_info)
    column = (run_info.get("selection") or {}).get("input_column")
    for prefix, spec in inputs.items():
        rules = ListingRules(column=spec.get("input_column", column), accept_incomplete=True)
        if not isinstance(spec.get("input"), str):
            problems.append("the dataset does not say where its images are")
            continue
        try:
            parts[prefix] = open_input(spec["input"], rules)
        except InputError as error:
            problems.append(str(error))
    if not parts:
        raise InputError("; ".join(problems))
    for problem in problems:
        log.warning("some images are gone: %s", problem)
    return parts[""] if "" in parts else MergedInput(parts=parts)
