"""The routes of the annotator: what is next, an image with its masks, and what people say of it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sam_engine.catalogue import Thresholds
from sam_engine.dataset.correction_report import work_report
from sam_engine.dataset.corrections import Stage
from sam_engine.errors import InputError, StorageError
from sam_engine.web.acts import ConflictError, is_name, parse_act
from sam_engine.web.annotating import Annotating
from sam_engine.web.bodies import read_json
from sam_engine.web.queue import ORDERS

STORAGE_FAILED = 507
"""Status of an answer: nothing was said, and the page says it again."""


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """What the routes answer from, and what a page begins with."""

    annotating: Annotating
    name: str
    """Of whoever sits at the page, until another is given there."""
    stage: Stage = Stage.REVIEW
    order: str = "stability"
    """One of `ORDERS`."""
    seed: int = 0
    """Of the order "random"."""
    confident: Thresholds = field(default_factory=Thresholds)
    """Scores of masks that are shown in `Stage.SEMI`."""

    def about(self) -> dict[str, Any]:
        """Return what a page begins with, and how far the work is."""
        return {
            "annotator": self.name,
            "stage": self.stage,
            "stages": list(Stage),
            "order": self.order,
            "orders": ORDERS,
            "confident": asdict(self.confident),
            **self.annotating.about(),
        }


def annotate_routes(annotator: Annotator) -> list[Route]:
    """Return the routes, not guarded yet."""
    annotating = annotator.annotating

    async def about(_: Request) -> Response:
        return await _answer(annotator.about)

    async def image(request: Request) -> Response:
        by = _name(request)
        return await _answer(lambda: annotating.image(request.path_params["image_id"], by))

    async def following(request: Request) -> Response:
        by, parameters = _name(request), request.query_params
        order = parameters.get("order", annotator.order)
        if order not in ORDERS:
            raise HTTPException(400, f"order is {order!r}; choose from {', '.join(ORDERS)}")
        after = parameters.get("after", "")
        if after and not (after.isascii() and after.isdigit() and len(after) < 17):
            raise HTTPException(400, f"after is {after!r}; it is the id of an image")
        return await _answer(
            lambda: annotating.next(by, order=order, seed=annotator.seed, after=int(after) if after else None)
        )

    async def act(request: Request) -> Response:
        document, image_id = await read_json(request), request.path_params["image_id"]
        try:
            parsed = parse_act(document, image_id)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        return await _answer(lambda: annotating.say(parsed))

    async def report(_: Request) -> Response:
        return await _answer(lambda: {"work": work_report(annotating.corrections())})

    here = "/api/annotate"
    return [
        Route(here, about),
        Route(here + "/next", following),
        Route(here + "/report", report),
        Route(here + "/images/{image_id:int}", image),
        Route(here + "/images/{image_id:int}/acts", act, methods=["POST"]),
    ]


def _name(request: Request) -> str:
    by = request.query_params.get("by", "")
    if not is_name(by):
        raise HTTPException(400, f"by is {by!r}; it is the annotator's name")
    return by


async def _answer(answer: Callable[[], dict[str, Any]]) -> Response:
    """Return an answer as JSON, computed in a thread.

    Raises:
        HTTPException: 409, others were faster; 404, it does not fit the dataset; 507, the storage failed.
    """
    try:
        return JSONResponse(await run_in_threadpool(answer))
    except ConflictError as error:
        raise HTTPException(409, str(error)) from error
    except InputError as error:
        raise HTTPException(404, str(error)) from error
    except StorageError as error:
        raise HTTPException(STORAGE_FAILED, str(error)) from error
