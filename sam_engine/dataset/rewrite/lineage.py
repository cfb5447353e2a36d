"""A row of a parent as a row of its child: corrected, filtered, renumbered, with the way back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sam_engine.dataset.corrections import (
    Correction,
    MaskId,
    Operation,
    apply_corrections,
    corrected_annotations,
    in_force,
)
from sam_engine.dataset.rewrite.rules import Rules, with_masks
from sam_engine.dataset.schema import annotation_id
from sam_engine.structures import Annotation, ImageRecord


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How the rows of one parent become rows of its child."""

    fingerprint: str
    """Of the parent."""
    prefix: bytes
    """Of paths in the child; empty if they stay."""
    rules: Rules

    def masks_left(self, parent: ImageRecord, said: Sequence[Correction]) -> ImageRecord:
        """Return a parent's row as people left it, with the masks that the rules keep, still with its id.

        Masks carry the ids of their parents; those that people added have none.
        """
        return self.rules.keep_masks(with_masks(parent, [mask for mask, _ in _identified(parent, said)]))

    def child(self, parent: ImageRecord, said: Sequence[Correction], image_id: int) -> ImageRecord:
        """Return the row of the child that a parent's row becomes."""
        return replace(
            self.masks_left(parent, said),
            image_id=image_id,
            path=self.prefix + parent.path,
            parent_dataset=self.fingerprint,
            parent_image_id=parent.image_id,
        )

    def acceptances(
        self, parent: ImageRecord, said: Sequence[Correction], image_id: int
    ) -> Iterator[Correction]:
        """Yield what people said that is right, as corrections of the child.

        What they drew is a mask of the child, accepted by who drew it. That none is missing is carried on
        where the rules keep every mask.
        """
        by_mask = _last_words(parent, said)
        kept = 0
        identified = _identified(parent, said)
        for mask, mask_id in identified:
            if not self.rules.keeps_mask(mask):
                continue
            if mask_id in by_mask:
                word = by_mask[mask_id]
                yield _accept(word, image_id, annotation_id(image_id, kept))
            kept += 1
        whole = [word for word in in_force(said) if word.mask_id is None]
        if whole and kept == len(identified):
            yield _accept(whole[-1], image_id, None)


def _identified(parent: ImageRecord, said: Sequence[Correction]) -> list[tuple[Annotation, MaskId]]:
    """Return the masks of a parent's row as people left them, with their ids in its log."""
    end = annotation_id(parent.image_id, len(parent.annotations))
    masks = [
        replace(mask, parent_id=mask.id if mask.id is not None and mask.id < end else None, id=None)
        for mask in corrected_annotations(parent, said)
    ]
    names: list[MaskId] = [mask.mask_id for mask in apply_corrections(parent, said)]
    return list(zip(masks, names, strict=True))


def _last_words(parent: ImageRecord, said: Sequence[Correction]) -> dict[MaskId, Correction]:
    """Return by mask which correction accepted it last, by whatever operation."""
    known: list[MaskId] = [annotation_id(parent.image_id, i) for i in range(len(parent.annotations))]
    words: dict[MaskId, Correction] = {}
    for word in in_force(said):
        if word.mask_id is None:
            words |= dict.fromkeys(known, word)
        elif word.operation not in (Operation.DELETE, Operation.LABEL):
            words[word.mask_id] = word
            known.append(word.mask_id)
    return words


def _accept(word: Correction, image_id: int, mask_id: int | None) -> Correction:
    return Correction(
        operation=Operation.ACCEPT, image_id=image_id, mask_id=mask_id, by=word.by, time=word.time
    )
