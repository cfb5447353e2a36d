"""What builds workers in the processes that run them: small, picklable, and without torch until called."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam_engine.annotation.checkup import Checkup
from sam_engine.annotation.copies import MakeCopy
from sam_engine.annotation.prompt_table import NO_PROMPTS, PromptTable, kept_prompts
from sam_engine.catalogue import NO_MODEL
from sam_engine.checkpoints.resolve import Checkpoint
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.hidden import HIDDEN, hidden_in
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.schema import MANIFEST
from sam_engine.inputs.source import InputSource
from sam_engine.privacy.open import kept_blur
from sam_engine.storage.store import Store

if TYPE_CHECKING:
    from sam_engine.annotation.worker import ShardAnnotator
    from sam_engine.modeling.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class MakeAnnotator:
    """Builds a worker in the process that will run it. Small enough to be sent there."""

    config: AutoAnnotateConfig
    source: InputSource
    store: Store
    fingerprint: str
    make_model: "Callable[[], Segmenter]"
    checkup: Checkup | None = None
    """What the machine must pass first."""

    def __call__(self) -> "ShardAnnotator":
        """Load the model.

        Raises:
            RuntimeError: This machine is no place for a worker.
        """
        import torch

        from sam_engine.annotation.worker import ShardAnnotator

        torch.set_num_threads(self.config.executor.threads_per_worker)
        model = self.make_model()
        if self.checkup is not None:
            self.checkup.refuse_sick(model)
        return ShardAnnotator(
            model=model,
            source=self.source,
            store=self.store,
            manifest=Manifest.from_bytes(self.store.read(MANIFEST)),
            fingerprint=self.fingerprint,
            amg=self.config.amg,
            decode=self.config.decode,
            threads=self.config.executor.threads_per_worker,
            decode_threads=self.config.executor.decode_threads,
            prompts=self._prompts(),
            copy=self._copy() if self.config.store_images else None,
        )

    def _copy(self) -> MakeCopy:
        """Return what makes the image of a row; the dataset keeps what it must not show."""
        if self.config.privacy.blur == "none":
            return MakeCopy()
        hidden = hidden_in(self.store)
        assert hidden is not None  # kept before there are workers
        return MakeCopy(kept_blur(faces=hidden.faces, boxes=hidden.boxes, name=HIDDEN))

    def _prompts(self) -> PromptTable | None:
        """Return what is asked of each image in place of a grid: nothing, where there is no model."""
        if self.config.model.name == NO_MODEL:
            return NO_PROMPTS
        return None if self.config.amg.prompts is None else kept_prompts(self.store)

    def on_cpu(self) -> "MakeAnnotator":
        """Return what builds a worker that leaves GPUs alone; a model of the caller's own stays as it is."""
        maker = self.make_model
        return dataclasses.replace(self, make_model=maker.on_cpu() if isinstance(maker, LoadModel) else maker)


@dataclass(frozen=True, kw_only=True)
class LoadModel:
    """Loads the configured model. Picklable without torch."""

    config: AutoAnnotateConfig
    checkpoint: Checkpoint

    def __call__(self) -> "Segmenter":
        """Return it on its device, in eval mode."""
        if self.config.model.name == NO_MODEL:
            from sam_engine.modeling.no_model import NoModel

            return NoModel()
        from sam_engine.build_sam import load_model

        return load_model(self.config.model, self.checkpoint)

    def on_cpu(self, **settings: str) -> "LoadModel":
        """Return what loads it on a CPU, with other settings of the model if any are given."""
        model = dataclasses.replace(self.config.model, device="cpu", **settings)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, model=model))
