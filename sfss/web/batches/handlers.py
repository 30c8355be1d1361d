"""The handlers of batches: what a head must say, a place for the batch, and its body in the format it asks for."""

from __future__ import annotations

from sfss.errors import BadRequest, TooLarge
from sfss.store import Store
from sfss.web.answers import Answer
from sfss.web.batches import records, tar
from sfss.web.batches.getting import Getting, lines_of
from sfss.web.batches.items import Reader, Writer
from sfss.web.batches.keys import KeyMaker
from sfss.web.batches.putting import Putting
from sfss.web.batches.room import BatchRoom, ReadWindow
from sfss.web.errors import Refused
from sfss.web.memory import BodyMemory
from sfss.web.origins import Origins
from sfss.web.requests import Answered, Request
from sfss.web.uploads import announced_length, receive_up_to

_TAR = tar.CONTENT_TYPE.decode()
_RECORDS = records.CONTENT_TYPE.decode()


class BatchHandlers:
    """POST of `/files:get` and `/files:put`. A batch has up to `files_max` files and `bytes_max` bytes of body, or of
    files in its answer, and takes up to `seconds_max`; a list of paths has up to `list_bytes_max`. A client is held to
    `rate_min` bytes a second both ways, once it has had `patience_s`."""

    def __init__(
        self,
        store: Store,
        memory: BodyMemory,
        origins: Origins,
        room: BatchRoom,
        keys: KeyMaker,
        *,
        file_bytes_max: int,
        files_max: int,
        bytes_max: int,
        list_bytes_max: int,
        seconds_max: float,
        request_timeout_s: float,
        patience_s: float,
        rate_min: int,
    ) -> None:
        self._store = store
        self._memory = memory
        self._origins = origins
        self._room = room
        self._keys = keys
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._bytes_max = bytes_max
        self._list_bytes_max = list_bytes_max
        self._timeout_s = request_timeout_s
        self._seconds_max = seconds_max
        self._patience_s = patience_s
        self._rate_min = rate_min

    def get(self, request: Request) -> Answered:
        request.operation = "batch_get"
        length = self._checked_length(request, self._list_bytes_max, "a list of paths")
        return self._get(request, self._list_bytes_max if length is None else length)

    async def _get(self, request: Request, length: int) -> Answer:
        with self._room.place(request, length):
            too_large = f"the list of paths has over {self._list_bytes_max} bytes; send the others in another batch"
            body = await receive_up_to(request, self._list_bytes_max, too_large)
            request.received = len(body)
            count = body.count(b"\n") + (not body.endswith(b"\n"))
            if count > self._files_max:  # before so many lines are made of it
                raise TooLarge(f"{count} files are asked for; the limit for a batch is {self._files_max}")
            paths = lines_of(body)
            getting = Getting(
                self._store,
                self._keys,
                ReadWindow(self._memory),
                _writer(request),
                request,
                bytes_max=self._bytes_max,
                seconds_max=self._seconds_max,
                timeout_s=self._timeout_s,
                patience_s=self._patience_s,
                rate_min=self._rate_min,
            )
            return await getting.answer(paths)

    def put(self, request: Request) -> Answered:
        request.operation = "batch_put"
        self._checked_length(request, self._bytes_max, "a batch")
        return self._put(request)

    async def _put(self, request: Request) -> Answer:
        with self._room.place(request, self._file_bytes_max):
            putting = Putting(
                self._store,
                self._keys,
                self._memory,
                self._reader(request),
                request,
                files_max=self._files_max,
                bytes_max=self._bytes_max,
                seconds_max=self._seconds_max,
                timeout_s=self._timeout_s,
                patience_s=self._patience_s,
            )
            return await putting.answer()

    def _reader(self, request: Request) -> Reader:
        content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type == _RECORDS:
            return records.RecordReader(self._file_bytes_max)
        return tar.TarReader(self._file_bytes_max)

    def _checked_length(self, request: Request, limit: int, what: str) -> int | None:
        self._origins.check(request)
        length = announced_length(request)
        if length is not None and length > limit:
            raise TooLarge(f"a body of {length} bytes is announced; the limit for {what} is {limit}")
        if request.query:
            raise BadRequest("a batch has no query; its paths stand in the body")
        for name in ("Content-Digest", "Content-MD5"):
            if name in request.headers:
                raise Refused(501, "unsupported", f"{name} of a batch isn't compared; send it without")
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise Refused(415, "encoded", "the body of a batch is read here; send it without Content-Encoding")
        return length


def _writer(request: Request) -> Writer:
    return tar.TarWriter() if _TAR in request.headers.get("Accept", "").lower() else records.RecordWriter()
