"""Bodies of requests, read to a limit: nobody makes the server hold more than a page would send."""

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_JSON_BYTES = 2**20


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return a request's body.

    Raises:
        HTTPException: 413, it is longer; the rest of it is not read.
    """
    too_long = HTTPException(413, f"that is more than the {max_bytes} bytes that are taken here")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_long
    return bytes(body)


async def read_json(request: Request) -> dict[str, Any]:
    """Return the object in a request's body.

    Raises:
        HTTPException: 413 as `read_body`; 400, it is not a JSON object.
    """
    body = await read_body(request, MAX_JSON_BYTES)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return document
