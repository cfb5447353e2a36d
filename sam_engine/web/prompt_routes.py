"""The routes of prompting: images, their embeddings, masks for prompts, and the decoder for the browser.

An image is ``images/12``, of the dataset, or ``uploads/SHA256``, dropped onto a page.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import save
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from sam_engine.errors import ExportError, ImageError
from sam_engine.structures import ImageStatus
from sam_engine.web.bodies import read_body, read_json
from sam_engine.web.decoder_files import NAMES, can_export, decoder_files
from sam_engine.web.prompt_images import DatasetImages, PromptImage, UploadedImages
from sam_engine.web.prompting import PromptModel, parse_prompt
from sam_engine.web.runtime import FILES, VERSION, find_runtime

MAX_NAME_CHARS = 200


class Prompting:
    """What the routes answer from: a model, and images to use it on."""

    def __init__(
        self,
        model: PromptModel,
        images: DatasetImages,
        *,
        runtime: Callable[[], Path | None] = find_runtime,
    ) -> None:
        self.model = model
        self.images = images
        self.uploads = UploadedImages()
        self.runtime = runtime
        self._exporting = threading.Lock()

    def about(self) -> dict[str, Any]:
        """Return what a page must know before the first prompt."""
        problems = {
            "runtime": None
            if self.runtime()
            else "ONNX Runtime Web was not fetched: run view --fetch-runtime",
            "decoder": None
            if can_export()
            else "the extra onnx is not installed: pip install 'sam-engine[onnx]'",
        }
        return {
            "model": self.model.about(),
            "runtime": VERSION,
            "why_no_browser": next(filter(None, problems.values()), None),
            "max_upload_bytes": self.uploads.config.max_file_bytes,
            "max_upload_pixels": self.uploads.config.max_pixels,
        }

    def find(self, shelf: str, name: str) -> PromptImage:
        """Return an image.

        Raises:
            HTTPException: 404, there is none.
        """
        shelves: dict[str, Callable[[str], PromptImage | None]] = {
            "images": self.images.find,
            "uploads": self.uploads.find,
        }
        image = shelves[shelf](name) if shelf in shelves else None
        if image is None:
            raise HTTPException(
                404, f"{shelf}/{name} is no image that is here; dropped ones are forgotten in time"
            )
        return image

    def neighbours(self, shelf: str, name: str) -> dict[str, str | None]:
        """Return the images before and after one of the dataset, where they have pixels."""
        if shelf != "images":
            return {"previous": None, "next": None}
        around = {"previous": str(int(name) - 1), "next": str(int(name) + 1)}
        return {
            where: f"images/{other}" if self.images.find(other) else None for where, other in around.items()
        }

    def decoder(self, name: str) -> Path:
        """Return a graph's file.

        Raises:
            HTTPException: 404, it cannot be made here.
        """
        if name not in NAMES or not can_export():
            raise HTTPException(404, f"there is no graph {name!r}, or the extra onnx is not installed")
        with self._exporting:
            try:
                folder = self.model.cache.folder.with_name("decoders")
                return decoder_files(self.model.config, self.model.weights, folder)[name]
            except ExportError as error:
                raise HTTPException(404, f"the decoder cannot be exported: {error}") from error

    def close(self) -> None:
        """End what runs beside."""
        self.model.close()
        self.uploads.close()


def prompt_routes(prompting: Prompting) -> list[Route]:
    """Return the routes, not guarded yet."""

    async def about(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(prompting.about))

    async def upload(request: Request) -> Response:
        data = await read_body(request, prompting.uploads.config.max_file_bytes)
        name = request.query_params.get("name", "")[:MAX_NAME_CHARS]
        image = await _of_image(lambda: prompting.uploads.add(data, name))
        return JSONResponse(_described("uploads", image.sha256, image))

    async def image(request: Request) -> Response:
        shelf, name = request.path_params["shelf"], request.path_params["name"]
        found = await run_in_threadpool(prompting.find, shelf, name)
        around = await run_in_threadpool(prompting.neighbours, shelf, name)
        return JSONResponse(_described(shelf, name, found) | around)

    async def pixels(request: Request) -> Response:
        return Response(await _of_image((await _found(request)).jpeg), media_type="image/jpeg")

    async def embedding(request: Request) -> Response:
        found = await _found(request)
        data = await _of_image(lambda: prompting.model.embedding(found))
        return Response(data, media_type="application/octet-stream")

    async def ahead(request: Request) -> Response:
        prompting.model.encode_ahead(await _found(request))
        return JSONResponse({}, 202)

    async def predict(request: Request) -> Response:
        found, document = await _found(request), await read_json(request)
        try:
            prompt = parse_prompt(document)
            logits, scores = await _of_image(lambda: prompting.model.predict(found, prompt))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        data = save({"low_res_masks": logits, "iou_predictions": scores})
        return Response(data, media_type="application/octet-stream")

    async def everything(request: Request) -> Response:
        found = await _found(request)
        return JSONResponse({"masks": await _of_image(lambda: prompting.model.everything(found))})

    async def decoder(request: Request) -> Response:
        path = await run_in_threadpool(prompting.decoder, request.path_params["graph"])
        return FileResponse(path, media_type="application/octet-stream")

    async def runtime(request: Request) -> Response:
        folder, name = prompting.runtime(), request.path_params["file"]
        if folder is None or name not in FILES:
            raise HTTPException(404, "ONNX Runtime Web has no such file, or was not fetched")
        return FileResponse(folder / name, headers={"Cache-Control": "private, max-age=3600"})

    async def _found(request: Request) -> PromptImage:
        parameters = request.path_params
        return await run_in_threadpool(prompting.find, parameters["shelf"], parameters["name"])

    here = "/api/prompting"
    one = here + "/{shelf}/{name}"
    return [
        Route(here, about),
        Route(here + "/uploads", upload, methods=["POST"]),
        Route(here + "/decoder/{graph}.onnx", decoder),
        Route(one, image),
        Route(one + "/pixels.jpg", pixels),
        Route(one + "/embedding", embedding),
        Route(one + "/ahead", ahead, methods=["POST"]),
        Route(one + "/predict", predict, methods=["POST"]),
        Route(one + "/everything", everything),
        Route("/runtime/{file}", runtime),
    ]


def _described(shelf: str, name: str, image: PromptImage) -> dict[str, Any]:
    """Return what a page must know of an image."""
    height, width = image.size
    return {"ref": f"{shelf}/{name}", "name": image.name, "width": width, "height": height}


async def _of_image(answer: Callable[[], Any]) -> Any:
    """Return what an image gives, computed in a thread.

    Raises:
        HTTPException: 413, the image is too large; 422, it cannot be used.
    """
    try:
        return await run_in_threadpool(answer)
    except ImageError as error:
        code = 413 if error.status == ImageStatus.TOO_LARGE else 422
        raise HTTPException(code, f"{error.status}: {error}") from error
