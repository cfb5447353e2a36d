"""What a checkpoint file holds: the names and shapes of its tensors, and which model they make. No torch.

Files come in several containers (torch's zip and its older pickle, safetensors), nestings
(``{"model": ...}``) and spellings (``module.`` prefixes, the names of Hugging Face's SamModel). All are read
as the names of the original release. Reading a header takes milliseconds and runs no code from the file.
"""

import json
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, NamedTuple

from sam_engine.catalogue import ARCHITECTURES, TINY, VIT, Architecture, Thresholds
from sam_engine.errors import CheckpointError, MissingCheckpointError

Shapes = dict[str, tuple[int, ...]]
"""Shape of each tensor by its name in the file."""

MARKERS = {
    TINY: "image_encoder.lateral_16.weight",
    VIT: "image_encoder.pos_embed",
}
"""Family -> a tensor that only its encoders have."""

NESTINGS = ("model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "model.", "sam.", "sam_model.")
TORCH_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_HEADER_BYTES = 100 * 2**20
"""A longer header is damage, or an attack."""

# Hugging Face's SamModel -> the original release, applied in this order.
HUGGING_FACE_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^vision_encoder\.", "image_encoder."),
        (r"^image_encoder\.layers\.", "image_encoder.blocks."),
        (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
        (r"\.neck\.conv1\.", ".neck.0."),
        (r"\.neck\.layer_norm1\.", ".neck.1."),
        (r"\.neck\.conv2\.", ".neck.2."),
        (r"\.neck\.layer_norm2\.", ".neck.3."),
        (
            r"^(prompt_encoder\.shared_embedding|shared_image_embedding)\.positional_embedding$",
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        ),
        (r"\.point_embed\.", ".point_embeddings."),
        (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
        (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
        (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
        (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
        (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
        (r"\.upscale_conv1\.", ".output_upscaling.0."),
        (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
        (r"\.upscale_conv2\.", ".output_upscaling.3."),
        (r"\.layer_norm([1-4]|_final_attn)\.", r".norm\1."),
        (r"(_head|_mlps\.\d+)\.layers\.0\.", r"\1.layers.1."),
        (r"\.proj_in\.", ".layers.0."),
        (r"\.proj_out\.", ".layers.2."),
    )
)


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of a file's tensors, without reading their values.

    Raises:
        CheckpointError: The file is missing, empty, damaged, no checkpoint, or a pickle that holds code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            refuse_other_kinds(str(path), head)
            if head[:4] == b"PK\x03\x04":
                tensors = _read_zip(path, file)
            elif head[8:9] == b"{":
                tensors = _read_safetensors(path, file)
            elif head[:1] == b"\x80":
                tensors = _read_legacy(path, file)
            else:
                raise CheckpointError(f"{path}: not a checkpoint, it begins with {head[:16]!r}")
    except FileNotFoundError as error:
        raise MissingCheckpointError(f"{path}: no such checkpoint file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    shapes = {name: value.shape for name, value in tensors.items() if isinstance(value, _TensorHeader)}
    if not shapes:
        raise CheckpointError(f"{path}: holds no named tensors")
    return shapes


def read_thresholds(path: Path) -> Thresholds | None:
    """Return what a file's metadata recommend for its masks; None if they say nothing of it.

    Raises:
        CheckpointError: What they say is no number, or only one of both is there.
    """
    with path.open("rb") as file:
        length = file.read(9)
        if length[8:] != b"{":
            return None
        header = json.loads(b"{" + file.read(int.from_bytes(length[:8], "little") - 1))
    metadata = header.get("__metadata__") or {}
    names = [each.name for each in fields(Thresholds)]
    given = {name: metadata[name] for name in names if name in metadata}
    if not given:
        return None
    try:
        thresholds = Thresholds(**{name: float(given[name]) for name in names})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata recommend {given}, not both as numbers") from error
    if not all(math.isfinite(getattr(thresholds, name)) for name in names):
        raise CheckpointError(f"{path}: its metadata recommend {given}, which are not finite")
    return thresholds


def refuse_other_kinds(where: str, head: bytes) -> None:
    """Raise `CheckpointError` if the first bytes are those of a web page, an LFS pointer or an empty file."""
    if not head:
        raise CheckpointError(f"{where}: the file is empty")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{where}: a Git LFS pointer instead of the weights; fetch them with: git lfs pull"
        )
    if head.lstrip().startswith(b"<"):
        raise CheckpointError(f"{where}: a web page instead of the weights; download the file itself")


def unnest(tree: Any) -> Mapping[str, Any]:
    """Return the dictionary of tensors inside ``{"model": ...}`` and the like."""
    for key in NESTINGS:
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            return unnest(tree[key])
    return tree if isinstance(tree, Mapping) else {}


def original_names(names: Iterable[str]) -> dict[str, str]:
    """Map each name of a file to the name that the original release gives that tensor."""
    mapping = {name: name.replace("_orig_mod.", "") for name in names}
    for prefix in PREFIXES:
        if mapping and all(name.startswith(prefix) for name in mapping.values()):
            mapping = {key: name.removeprefix(prefix) for key, name in mapping.items()}
    if any(name.startswith("vision_encoder.") for name in mapping.values()):
        for pattern, replacement in HUGGING_FACE_NAMES:
            mapping = {key: pattern.sub(replacement, name) for key, name in mapping.items()}
    return mapping


def identify_model(path: Path, shapes: Shapes) -> str:
    """Return the name of the architecture that these tensors make.

    Args:
        path: For messages.
        shapes: By original name.

    Raises:
        CheckpointError: They make another network than Segment Anything.
    """

    def has(*fragments: str) -> bool:
        return any(fragment in name for name in shapes for fragment in fragments)

    if has("mask_decoder.hf_token", "mask_decoder.compress_vit_feat"):
        raise CheckpointError(
            f"{path}: a SAM-HQ checkpoint, which is another network; use an original SAM one"
        )
    if has("sam_mask_decoder.", "memory_attention.", "memory_encoder."):
        raise CheckpointError(
            f"{path}: a SAM 2 checkpoint, which is another network; use an original SAM one"
        )
    if has("exp_avg"):
        raise CheckpointError(f"{path}: the state of a training run; use the model.safetensors beside it")
    if not has("image_encoder."):
        raise CheckpointError(
            f"{path}: holds no image encoder; its tensors are {', '.join(sorted(shapes)[:3])}, ..."
        )
    family = next((family for family, marker in MARKERS.items() if marker in shapes), None)
    if family is None:
        raise CheckpointError(f"{path}: its image encoder is no plain ViT (MobileSAM, EfficientSAM, ...)")
    members = {name: row for name, row in ARCHITECTURES.items() if row.encoder == family}
    if family == VIT:
        return _identify_vit(path, shapes, members)
    assert len(members) == 1, f"what tells the models of {family} apart"
    return next(iter(members))


def _identify_vit(path: Path, shapes: Shapes, members: Mapping[str, Architecture]) -> str:
    """Return which ViT has as many channels and blocks."""
    channels = shapes[MARKERS[VIT]][-1]
    blocks = len({name.split(".")[2] for name in shapes if name.startswith("image_encoder.blocks.")})
    for name, architecture in members.items():
        if (architecture.embed_dim, architecture.depth) == (channels, blocks):
            return name
    raise CheckpointError(f"{path}: a ViT of {blocks} blocks of {channels} channels, which has no name here")


class _TensorHeader(NamedTuple):
    """What stands for a tensor when only headers are read."""

    shape: tuple[int, ...]


def _read_safetensors(path: Path, file: IO[bytes]) -> Mapping[str, Any]:
    """Read the JSON in front of the values, and check that all values are there."""
    num_header_bytes = int.from_bytes(file.read(8), "little")
    if num_header_bytes > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: damaged, its header claims {num_header_bytes} bytes")
    text = file.read(num_header_bytes)
    num_bytes = file.seek(0, 2)
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + num_header_bytes + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {name: _TensorHeader(tuple(entry["shape"])) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = "truncated" if len(text) < num_header_bytes else "damaged"
        raise CheckpointError(f"{path}: {what} in its header") from error
    if num_bytes < end:
        raise CheckpointError(f"{path}: truncated, it has {num_bytes} of {end} bytes; download it again")
    return tensors


def _read_zip(path: Path, file: IO[bytes]) -> Mapping[str, Any]:
    """Read the pickle of a file by ``torch.save``; its values are separate members of the archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
            if not names or any("/code/" in name for name in archive.namelist()):
                raise CheckpointError(f"{path}: an archive, but not of weights by torch.save")
            if archive.getinfo(names[0]).file_size > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: damaged, its list of tensors is too long")
            with archive.open(names[0]) as member:
                return unnest(_HeaderUnpickler(path, member).load_tree())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error}); download it again") from error


def _read_legacy(path: Path, file: IO[bytes]) -> Mapping[str, Any]:
    """Read the fourth pickle of a file by ``torch.save`` before torch 1.6."""
    if _HeaderUnpickler(path, file).load_tree() != TORCH_LEGACY_MAGIC:
        raise CheckpointError(f"{path}: a pickle that torch.save did not write")
    _HeaderUnpickler(path, file).load_tree()  # version of the format
    _HeaderUnpickler(path, file).load_tree()  # byte order and sizes of the machine
    return unnest(_HeaderUnpickler(path, file).load_tree())


class _HeaderUnpickler(pickle.Unpickler):
    """Read names and shapes from a pickle. Nothing that the file names is ever imported or called."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(file)
        self.path = path

    def load_tree(self) -> Any:
        """Return the object, with `_TensorHeader` for tensors and stand-ins for other objects of torch."""
        try:
            return self.load()
        except CheckpointError:
            raise
        except (EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.path}: truncated or damaged ({error})") from error
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path}: damaged, its pickle makes no sense ({error})") from error

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for the few names that weights need; refuse all others."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name.startswith("_rebuild_tensor"):
            return _rebuild_tensor
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return _rebuild_parameter
        if module.split(".")[0] == "torch":
            return _Inert
        raise CheckpointError(f"{self.path}: refused, it holds Python code ({module}.{name}) besides weights")

    def persistent_load(self, pid: Any) -> None:
        """Leave values where they are."""


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, *rest: Any) -> _TensorHeader:
    return _TensorHeader(tuple(shape))


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


class _Inert:
    """Stands for an object of torch that is no tensor."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...
