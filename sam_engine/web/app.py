"""The pages and the API over one dataset. Every route but the static files is behind `Guard`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sam_engine.config import PrivacyConfig
from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import SUCCESS, annotation_id, display_path
from sam_engine.errors import ImageError, SamEngineError
from sam_engine.structures import Annotation, ImageRecord, ImageStatus
from sam_engine.web.annotate_routes import Annotator, annotate_routes
from sam_engine.web.audit_routes import Audit, audit_routes
from sam_engine.web.listing import ORDERS, Listing, Query
from sam_engine.web.pictures import NOTHING_MORE, Pictures
from sam_engine.web.prompt_images import DatasetImages
from sam_engine.web.prompt_routes import Prompting, prompt_routes
from sam_engine.web.prompting import PromptModel, make_prompt_model

STATIC = Path(__file__).parent / "static"
MAX_PAGE = 200
"""Images in one answer."""


class Viewer:
    """What the routes answer from. Its methods run in threads, several at once."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        images: str | None = None,
        privacy: PrivacyConfig = NOTHING_MORE,
        model: PromptModel | None = None,
    ) -> None:
        """Take a dataset, which may still be growing.

        Args:
            dataset: To show.
            images: Where its input is now, if it has moved.
            privacy: What pictures must not show, besides what the dataset hides.
            model: What answers prompts; None: the default model.

        Raises:
            ConfigError, ShardError: As `Pictures`.
        """
        self.dataset = dataset
        self.places = Places(dataset)
        self.listing = Listing(dataset, self.places)
        self.pictures = Pictures(dataset, images, privacy)
        self.prompting = Prompting(
            model or make_prompt_model(),
            DatasetImages(dataset, self.places, self.pictures),
        )
        self.annotator: Annotator | None = None
        """What its pages may say of it; None: nothing."""
        self.audit: Audit | None = None
        """The sample of it that is judged; None: there is none."""

    def about(self) -> dict[str, Any]:
        """Return what the head of every page says."""
        progress = self.listing.progress()
        settings = self.dataset.run_info.get("settings") or {}
        return {
            "name": self.dataset.store.describe(),
            "model": settings.get("model.name"),
            "num_expected": self.dataset.run_info.get("num_images"),
            "is_finished": self.dataset.store.has(SUCCESS),
            "num_shards": progress.num_shards,
            "num_read": progress.num_read,
            "num_images": progress.num_images,
            "num_masks": progress.num_masks,
            "is_read": self.listing.is_whole(),
            "problems": list(progress.problems),
            "statuses": self.listing.statuses(),
            "blurred": list(self.pictures.blurred),
            "annotates": self.annotator is not None,
            "audits": self.audit is not None,
        }

    def images(self, query: Query, offset: int, limit: int) -> dict[str, Any]:
        """Return a page of images without their masks."""
        if query == Query() and not self.listing.is_whole():
            first = self._first_images(offset, limit)
            if first is not None:
                return first
        images = self.listing.images()
        rows = images.matching(query)
        shown = rows[offset : offset + limit]
        names = images.file_name.take(shown).to_pylist()
        entries = [
            {
                "image_id": int(images.image_id[row]),
                "file_name": name,
                "status": tuple(ImageStatus)[images.status[row]].value,
                "num_masks": int(images.num_masks[row]),
            }
            for row, name in zip(shown.tolist(), names, strict=True)
        ]
        return {"total": len(rows), "is_read": self.listing.is_whole(), "images": entries}

    def _first_images(self, offset: int, limit: int) -> dict[str, Any] | None:
        """Return a page near the start from the shards themselves: nobody waits for the listing."""
        entries: list[dict[str, Any]] = []
        total = 0
        for index in self.places.published():
            place = self.places.place(index)
            num_rows = place.stop - place.start
            if total <= offset + len(entries) < total + num_rows and len(entries) < limit:
                first = offset + len(entries) - total
                records = self.places.rows(place, first, limit - len(entries))
                entries += [_entry(record) for record in records]
            total += num_rows
            if len(entries) == limit:
                break
        expected = self.dataset.run_info.get("num_images")
        return {"total": expected, "is_read": False, "images": entries} if entries else None

    def record(self, image_id: int) -> ImageRecord:
        """Return an image's row.

        Raises:
            HTTPException: 404, there is no such image, or not yet.
        """
        record = self.places.find(image_id)
        if record is None:
            raise HTTPException(404, f"image {image_id} is not in the dataset, or not yet")
        return record

    def image(self, image_id: int) -> dict[str, Any]:
        """Return an image with all its masks."""
        record = self.record(image_id)
        masks = [_mask(record, number, mask) for number, mask in enumerate(record.annotations)]
        return _entry(record) | {
            "width": record.width,
            "height": record.height,
            "error": record.error,
            "sha256": record.sha256,
            "masks": masks,
        }

    def statistics(self) -> dict[str, Any]:
        """Return the bins of the statistics page."""
        statistics = self.listing.statistics.to_json()
        return statistics | {"statuses": self.listing.statuses(), "is_read": self.listing.is_whole()}


def make_app(viewer: Viewer) -> Starlette:
    """Return the routes, not guarded yet."""

    async def page(_: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def about(_: Request) -> Response:
        return await _json(viewer.about)

    async def images(request: Request) -> Response:
        parameters = request.query_params
        query = _query(parameters)
        offset = _number(parameters, "offset", 0, 0, 2**53)
        limit = _number(parameters, "limit", 60, 1, MAX_PAGE)
        return await _json(lambda: viewer.images(query, offset, limit))

    async def image(request: Request) -> Response:
        return await _json(lambda: viewer.image(request.path_params["image_id"]))

    async def pixels(request: Request) -> Response:
        image_id = request.path_params["image_id"]
        return await _jpeg(viewer, lambda: viewer.pictures.full(viewer.record(image_id)))

    async def thumbnail(request: Request) -> Response:
        image_id, masks = request.path_params["image_id"], request.query_params.get("masks") != "0"
        return await _jpeg(viewer, lambda: viewer.pictures.thumbnail(viewer.record(image_id), masks=masks))

    async def statistics(_: Request) -> Response:
        return await _json(viewer.statistics)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/favicon.ico", lambda _: FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")),
            Route("/api/about", about),
            Route("/api/images", images),
            Route("/api/images/{image_id:int}", image),
            Route("/api/images/{image_id:int}/pixels.jpg", pixels),
            Route("/api/images/{image_id:int}/thumbnail.jpg", thumbnail),
            Route("/api/statistics", statistics),
            *prompt_routes(viewer.prompting),
            *(annotate_routes(viewer.annotator) if viewer.annotator else ()),
            *(audit_routes(viewer.audit) if viewer.audit else ()),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={SamEngineError: _failed, HTTPException: _refused},
    )


async def _json(answer: Callable[[], dict[str, Any]]) -> Response:
    return JSONResponse(await run_in_threadpool(answer))


async def _jpeg(viewer: Viewer, answer: Callable[[], bytes]) -> Response:
    """Answer with a picture, and say in its headers what is hidden in it.

    Browsers keep it for as long as the cookie is the same: not over a new start, which may hide more.
    """
    try:
        data = await run_in_threadpool(answer)
    except ImageError as error:
        raise HTTPException(404, f"{error.status}: {error}") from error
    headers = {"Cache-Control": "private, max-age=3600", "Vary": "Cookie"}
    if viewer.pictures.blurred:
        headers["Sam-Engine-Blurred"] = ", ".join(viewer.pictures.blurred)
    return Response(data, media_type="image/jpeg", headers=headers)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 500)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def _entry(record: ImageRecord) -> dict[str, Any]:
    """Return what the grid shows of an image."""
    return {
        "image_id": record.image_id,
        "file_name": display_path(record.path),
        "status": record.status.value,
        "num_masks": len(record.annotations),
    }


def _mask(record: ImageRecord, number: int, annotation: Annotation) -> dict[str, Any]:
    """Return a mask as pages get it: SA-1B's fields."""
    return {
        "id": annotation_id(record.image_id, number),
        "segmentation": {"size": list(annotation.size), "counts": annotation.counts},
        "bbox": list(annotation.bbox),
        "area": annotation.area,
        "predicted_iou": annotation.predicted_iou,
        "stability_score": annotation.stability_score,
        "crop_box": list(annotation.crop_box),
        "point_coords": [list(point) for point in annotation.point_coords],
    }


def _query(parameters: Mapping[str, str]) -> Query:
    """Return what the parameters of a request ask for.

    Raises:
        HTTPException: 400, one is not what it must be.
    """
    statuses = frozenset(filter(None, parameters.get("status", "").split(",")))
    unknown = statuses - {"failed"} - {status.value for status in ImageStatus}
    if unknown:
        raise HTTPException(400, f"status is {sorted(unknown)[0]!r}, which no image has")
    order = parameters.get("order", "image_id")
    if order not in ORDERS:
        raise HTTPException(400, f"order is {order!r}; choose from {', '.join(ORDERS)}")
    return Query(
        text=parameters.get("text", ""),
        statuses=statuses,
        min_masks=_number(parameters, "min_masks", 0, 0, 2**31 - 1),
        max_masks=_number(parameters, "max_masks", 0, 0, 2**31 - 1) if "max_masks" in parameters else None,
        order=order,
        descending=parameters.get("descending") == "1",
        sample=_number(parameters, "sample", 0, 0, 2**32 - 1) if "sample" in parameters else None,
    )


def _number(parameters: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = parameters.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise HTTPException(400, f"{name} is {text!r}; it must be a whole number from {low} to {high}")
    return int(text)
