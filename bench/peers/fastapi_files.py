"""Files by path with FastAPI in a directory, as anybody would write it: replaced whole, never synced, no copy.

`uvicorn --workers 2 bench.peers.fastapi_files:app`, with `BENCH_FILES` for the directory.
"""

import os
import tempfile
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response

ROOT = Path(os.environ["BENCH_FILES"])


def get(path: str) -> Response:
    try:
        return Response((ROOT / path).read_bytes(), media_type="application/octet-stream")
    except FileNotFoundError:
        raise HTTPException(404) from None


async def put(path: str, request: Request) -> Response:
    body = await request.body()
    with tempfile.NamedTemporaryFile(dir=ROOT, delete=False) as file:
        file.write(body)
    (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
    Path(file.name).replace(ROOT / path)
    return Response()


app = FastAPI()
app.add_api_route("/file", get, methods=["GET"])
app.add_api_route("/file", put, methods=["PUT"])
