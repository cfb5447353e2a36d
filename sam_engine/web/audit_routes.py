"""The routes of an audit: which images are to be judged, and how many things are missing in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sam_engine.dataset.audit import Sample, audit_report, read_missing, say_missing
from sam_engine.dataset.corrections import is_exhaustive
from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import display_path
from sam_engine.errors import StorageError
from sam_engine.web.acts import is_name
from sam_engine.web.annotate_routes import STORAGE_FAILED
from sam_engine.web.annotating import Annotating
from sam_engine.web.bodies import read_json


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What the routes answer from."""

    dataset: Dataset
    places: Places
    sample: Sample
    annotating: Annotating
    name: str
    """Of whoever sits at the page."""

    def images(self) -> dict[str, Any]:
        """Return the sample in its order, and how far its images are."""
        missing, corrections = read_missing(self.dataset.store), self.annotating.corrections()
        entries = []
        for image_id in self.sample.image_ids:
            record = self.places.find(image_id)
            said = corrections.get(image_id, [])
            entries.append(
                {
                    "image_id": image_id,
                    "file_name": "" if record is None else display_path(record.path),
                    "num_masks": 0 if record is None else len(record.annotations),
                    "num_said": len({line.mask_id for line in said if line.mask_id is not None}),
                    "missing": missing.get(image_id),
                    "is_judged": image_id in missing or is_exhaustive(said),
                }
            )
        return {"by": self.name, "seed": self.sample.seed, "images": entries}

    def say(self, image_id: int, document: dict[str, Any]) -> dict[str, Any]:
        """Write down how many things are missing.

        Raises:
            HTTPException: 400, it says nothing; 404, the image is not in the sample.
        """
        if image_id not in self.sample.image_ids:
            raise HTTPException(404, f"image {image_id} is not in the sample")
        by, count = document.get("by"), document.get("missing")
        if not isinstance(by, str) or not is_name(by):
            raise HTTPException(400, f"by is {by!r}; it is the name of who says so")
        if type(count) is not int:
            raise HTTPException(400, f"missing is {count!r}; it is a whole number")
        try:
            say_missing(self.dataset.store, image_id=image_id, count=count, by=by)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except StorageError as error:
            raise HTTPException(STORAGE_FAILED, str(error)) from error
        return {"image_id": image_id, "missing": count}

    def report(self) -> dict[str, Any]:
        """Return what is known until now."""
        return audit_report(self.dataset, self.sample, self.annotating.corrections())


def audit_routes(audit: Audit) -> list[Route]:
    """Return the routes, not guarded yet."""

    async def answer(ask: Callable[[], dict[str, Any]]) -> Response:
        return JSONResponse(await run_in_threadpool(ask))

    async def images(_: Request) -> Response:
        return await answer(audit.images)

    async def report(_: Request) -> Response:
        return await answer(audit.report)

    async def missing(request: Request) -> Response:
        document, image_id = await read_json(request), request.path_params["image_id"]
        return await answer(lambda: audit.say(image_id, document))

    return [
        Route("/api/audit", images),
        Route("/api/audit/report", report),
        Route("/api/audit/images/{image_id:int}/missing", missing, methods=["POST"]),
    ]
