"""Images as rows hold them with ``store_images=true``. No torch."""

from dataclasses import replace

from sam_engine.errors import ConfigError
from sam_engine.images.decode import DecodedImage
from sam_engine.images.encode import encode_jpeg
from sam_engine.privacy.open import Blur
from sam_engine.structures import ManifestEntry


class MakeCopy:
    """Makes the JPEG that is stored of an image. Safe to use from several threads."""

    def __init__(self, blur: Blur | None = None) -> None:
        """Take what blurs; None stores images as they are."""
        self._blur = blur

    def __call__(self, entry: ManifestEntry, image: DecodedImage) -> tuple[bytes | None, DecodedImage]:
        """Return the JPEG, and the image for the model, which sees it as it is.

        Where what must not be seen is not to be had, as with a box outside of the image, nothing is stored,
        and the image's note says why.
        """
        try:
            shown = image.pixels if self._blur is None else self._blur(entry, image.pixels)
        except ConfigError as error:
            notes = [note for note in (image.note, f"not stored: {error}") if note]
            return None, replace(image, note="; ".join(notes))
        return encode_jpeg(shown), image
