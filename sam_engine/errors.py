"""What can go wrong: with an image, as a status, and with all else as a tree of exceptions.

::

    SamEngineError
    ├── ConfigError (ValueError)      a setting is wrong; nothing was started             exit 2
    │   ├── InputError                the input cannot be listed, or is empty             exit 2
    │   ├── CheckpointError           a checkpoint is damaged or of another kind          exit 2
    │   │   └── MissingCheckpointError (FileNotFoundError)                                exit 2
    │   └── FingerprintError          the output holds a dataset of another configuration exit 2
    ├── ImageError (ValueError)       one image cannot be used; becomes that image's row
    ├── RleError (ValueError)         a run-length encoding is malformed
    ├── ModelLoadError                workers cannot load the model                       exit 1
    ├── WorkerError                   workers fail at whatever they are given             exit 1
    ├── ShardError                    a shard is unreadable or contradicts its dataset    exit 1
    ├── ExportError                   an exported model does not answer as the model does  exit 1
    ├── StorageError                  the output cannot be written                        exit 4
    ├── LaunchError                   a cluster does not take what it is given            exit 1
    └── LockedError                   another run is writing the same output              exit 5
"""

from enum import StrEnum
from typing import ClassVar


class ImageStatus(StrEnum):
    """What became of an input image. Every image gets exactly one."""

    OK = "ok"
    OK_EMPTY = "ok_empty"
    """Annotated; the model found no mask that passed the filters."""
    CORRUPT = "corrupt"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    """Refused by its header, before any pixel was decoded."""
    UNSUPPORTED = "unsupported"
    """Not an image, or of a kind that is not read."""
    UNREADABLE = "unreadable"
    """The bytes could not be had: permissions, I/O error, not a regular file."""
    VANISHED = "vanished"
    CHANGED = "changed"
    """Size or modification time differ from the manifest."""
    DECODER_CRASH = "decoder_crash"
    TIMEOUT = "timeout"
    OOM = "oom"
    MODEL_NONFINITE = "model_nonfinite"
    WORKER_CRASH = "worker_crash"

    @property
    def is_failure(self) -> bool:
        """True unless the image was annotated."""
        return self not in (ImageStatus.OK, ImageStatus.OK_EMPTY)

    @property
    def may_pass(self) -> bool:
        """True if the reason lies outside the file's bytes: another time the image may be annotated."""
        return self in (
            ImageStatus.UNREADABLE,
            ImageStatus.VANISHED,
            ImageStatus.CHANGED,
            ImageStatus.DECODER_CRASH,
            ImageStatus.TIMEOUT,
            ImageStatus.OOM,
            ImageStatus.WORKER_CRASH,
        )


class SamEngineError(Exception):
    """Base of all errors that the engine raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(SamEngineError, ValueError):
    """A setting is wrong; the message names the key, what was got and what would do."""

    exit_code: ClassVar[int] = 2


class InputError(ConfigError):
    """The input does not exist, cannot be listed, or holds no images."""


class CheckpointError(ConfigError):
    """A checkpoint is missing, damaged, or made for another model."""


class MissingCheckpointError(CheckpointError, FileNotFoundError):
    """There is no such checkpoint."""


class FingerprintError(ConfigError):
    """The output directory belongs to a run with another configuration."""


class ImageError(SamEngineError, ValueError):
    """One image cannot be used.

    Attributes:
        status: What to write into the image's row.
        is_transient: The same reading may succeed in a moment.
    """

    def __init__(self, status: ImageStatus, message: str, is_transient: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.is_transient = is_transient

    def __reduce__(self) -> tuple[type, tuple[ImageStatus, str, bool]]:
        """Rebuild from all arguments, so that the error survives a process boundary."""
        return type(self), (self.status, str(self), self.is_transient)


class RleError(SamEngineError, ValueError):
    """A run-length encoding is malformed."""


class ModelLoadError(SamEngineError):
    """Workers cannot load the model."""


class WorkerError(SamEngineError):
    """Workers fail at whatever they are given: the machine is at fault, or the engine."""


class ShardError(SamEngineError):
    """A shard on disk is unreadable or contradicts its dataset."""


class ExportError(SamEngineError):
    """What was exported does not answer as the model does; no file was left."""


class StorageError(SamEngineError):
    """The output cannot be written: full, read-only, or out of quota."""

    exit_code: ClassVar[int] = 4


class LockedError(SamEngineError):
    """Another run holds the output."""

    exit_code: ClassVar[int] = 5


class LaunchError(SamEngineError):
    """A cluster, or its client here, does not take what it is given."""


def describe_error(error: BaseException) -> str:
    """Return an exception as one line: its type and what it says."""
    return " ".join(f"{type(error).__name__}: {error}".split())
