"""Files over HTTP: every answer of the API, over a store in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import time

import pytest
from web_tier import form, request, web_tier

from sfss.memory import MemoryStore
from sfss.store import NO_CALL, VALUE_BYTES_MAX, Call, Record, Written, checksum_of
from sfss.web.conditions import http_date, parse_http_date

FORM = "Content-Type: multipart/form-data; boundary=xyz"


class Unversioned(MemoryStore):
    """A foreign server: no versions, no durability."""

    def get(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        record = super().get(key)
        return record and record.replaced(version=0, checksum=0)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Written:
        super().set(key, value)
        return Written()


def error_of(body: bytes) -> str:
    name: str = json.loads(body)["error"]
    return name


# --- storing ---


async def test_post_answers_201_and_put_200_and_both_replace() -> None:
    async with web_tier() as web:
        posted = await web.ask(request("POST", "/files?path=a/b.txt", body=b"one"))
        put = await web.put("a/b.txt", b"two")
        got = await web.get("a/b.txt")

    assert (posted.status, put.status, got.status) == (201, 200, 200)
    assert got.body == b"two"
    assert posted.headers["etag"] != put.headers["etag"] == got.headers["etag"]
    assert put.headers["sfss-durable"] == "1/1"


class StoppedClock(MemoryStore):
    """Every write gets the same version, as two coordinators may give it to two writes in one millisecond."""

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Written:
        version = 1 << 60
        record = Record(value, len(value), 0, 0, version, checksum_of(key, value, 0, 0, version, False))
        self.held = record
        return Written(version, record.checksum, 1, 1)

    def get(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        return self.held


async def test_two_writes_of_one_version_have_different_etags() -> None:
    async with web_tier(StoppedClock()) as web:
        one = await web.put("a", b"one")
        two = await web.put("a", b"two")
        got = await web.get("a", f"If-None-Match: {one.headers['etag']}")

    assert one.headers["etag"] != two.headers["etag"] == got.headers["etag"]
    assert (got.status, got.body) == (200, b"two")


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, VALUE_BYTES_MAX - 1, VALUE_BYTES_MAX])
@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
async def test_a_file_of_any_size_comes_back_as_it_was(size: int, kind: str) -> None:
    file = hashlib.shake_128(b"seed").digest(size)
    headers, body = [], file
    if kind == "form":
        headers, body = [FORM], form([('name="upload_file"; filename="文.jpg"', file)])
    elif kind == "chunked":
        headers = ["Transfer-Encoding: chunked"]
        pieces = [file[start : start + 60_000] for start in range(0, size, 60_000)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    async with web_tier() as web:
        put = await web.put("x", body, *headers)
        got = await web.get("x")

    assert put.status == 200
    assert got.body == file
    assert got.headers["content-length"] == str(size)


@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
async def test_one_byte_over_the_limit_is_413_and_nothing_is_stored(kind: str) -> None:
    file = bytes(VALUE_BYTES_MAX + 1)
    headers, body = [], file
    if kind == "form":
        headers, body = [FORM], form([('name="file"; filename="a"', file)])
    elif kind == "chunked":
        headers, body = ["Transfer-Encoding: chunked"], b"%x\r\n%b\r\n0\r\n\r\n" % (len(file), file)
    async with web_tier() as web:
        put = await web.put("x", body, *headers)
        got = await web.get("x")

    assert put.status == 413
    assert put.headers["sfss-outcome"] == "not-applied"
    assert got.status == 404


async def test_a_body_of_any_other_type_is_the_file_itself() -> None:
    async with web_tier() as web:
        for number, content_type in enumerate(
            ["application/x-www-form-urlencoded", "text/html", "multipart/mixed; boundary=xyz", "nonsense"]
        ):
            await web.put(f"f{number}", b"a=b&c=d", f"Content-Type: {content_type}")
            assert (await web.get(f"f{number}")).body == b"a=b&c=d"


async def test_a_compressed_upload_is_kept_as_it_was_sent() -> None:
    async with web_tier() as web:
        for encoding in ("gzip", "deflate", "br", "nonsense"):
            put = await web.put("x", b"not really compressed", f"Content-Encoding: {encoding}")
            got = await web.get("x")

            assert put.status == 200
            assert got.body == b"not really compressed"
            assert "content-encoding" not in got.headers


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Content-Digest: sha-256=:" + base64.b64encode(hashlib.sha256(b"body").digest()).decode() + ":", 200),
        ("Content-Digest: sha-256=:" + base64.b64encode(hashlib.sha256(b"BODY").digest()).decode() + ":", 422),
        ("Content-MD5: " + base64.b64encode(hashlib.md5(b"body").digest()).decode(), 200),
        ("Content-MD5: " + base64.b64encode(hashlib.md5(b"BODY").digest()).decode(), 422),
        ("Content-Digest: nonsense", 400),
        (
            "Content-Digest: unixsum=:AA==:\r\n"
            + "Content-Digest: sha-256=:"
            + base64.b64encode(bytes(32)).decode()
            + ":",
            422,
        ),
        ("If-Match: *", 501),
        ('If-None-Match: "x"', 501),
        ("If-Unmodified-Since: " + http_date(0).decode(), 501),
        ("If-Modified-Since: " + http_date(0).decode(), 501),
        ("Content-Range: bytes 0-3/10", 400),
        ("Expect: miracles", 417),
    ],
)
async def test_what_comes_beside_a_body_is_honoured_or_refused(header: str, status: int) -> None:
    async with web_tier() as web:
        put = await web.put("x", b"body", header)
        got = await web.get("x")

    assert put.status == status
    assert got.status == (200 if status == 200 else 404)


async def test_a_form_without_a_file_stores_nothing() -> None:
    async with web_tier() as web:
        put = await web.put("x", form([('name="comment"', b"text")]), FORM)

        assert (put.status, error_of(put.body)) == (400, "bad_request")
        assert (await web.get("x")).status == 404


async def test_100_continue_is_sent_only_for_a_body_that_is_wanted() -> None:
    async with web_tier() as web, await web.connect() as client:
        await client.send(request("PUT", "/file?path=x", "Expect: 100-continue", "Content-Length: 5"))
        assert (await client.reply()).status == 100
        await client.send(b"hello")
        assert (await client.reply()).status == 200

        await client.send(
            request("PUT", "/file?path=x", "Expect: 100-continue", f"Content-Length: {VALUE_BYTES_MAX + 1}")
        )
        refused = await client.reply()
        assert (refused.status, refused.closes) == (413, True)

        assert (await web.get("x")).body == b"hello"


# --- reading ---


async def test_a_file_comes_with_all_that_is_known_of_it() -> None:
    async with web_tier() as web:
        put = await web.put("a/b.jpg", b"bytes")
        got = await web.get("a/b.jpg")
        head = await web.ask(request("HEAD", "/file?path=a/b.jpg"))

    modified = parse_http_date(got.headers["last-modified"])
    assert modified is not None
    assert modified <= time.time()
    assert got.headers["etag"] == put.headers["etag"]
    assert got.headers["content-type"] == "image/jpeg"
    assert got.headers["accept-ranges"] == "bytes"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert (head.status, head.body) == (200, b"")
    for name in ("content-length", "content-type", "etag", "last-modified", "accept-ranges"):
        assert head.headers[name] == got.headers[name]


async def test_last_modified_is_never_in_the_future() -> None:
    ahead = MemoryStore(now=lambda: time.time() + 300)
    async with web_tier(ahead) as web:
        await web.put("x", b"1")
        got = await web.get("x")

    modified = parse_http_date(got.headers["last-modified"])
    assert modified is not None
    assert modified <= time.time()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("a.html", "text/html"),
        ("a.PNG", "image/png"),
        ("a.tar.gz", "application/gzip"),
        ("a", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        ("dir.png/a", "application/octet-stream"),
        (".png", "application/octet-stream"),
        ("data:text%2Fhtml,x", "application/octet-stream"),
    ],
)
async def test_the_content_type_is_guessed_from_the_extension(path: str, content_type: str) -> None:
    async with web_tier() as web:
        await web.put(path, b"1")
        assert (await web.get(path)).headers["content-type"] == content_type


async def test_a_file_that_is_not_there_is_404_for_get_head_and_delete() -> None:
    async with web_tier() as web:
        for method in ("GET", "HEAD", "DELETE"):
            assert (await web.ask(request(method, "/file?path=none"))).status == 404


@pytest.mark.parametrize(
    ("value", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-0,5-6", 200, b"0123456789", None),
        ("bytes=10-", 416, None, "bytes */10"),
    ],
)
async def test_a_range_is_answered_with_that_part(
    value: str, status: int, body: bytes | None, content_range: str | None
) -> None:
    async with web_tier() as web:
        await web.put("x", b"0123456789")
        got = await web.get("x", f"Range: {value}")

    assert got.status == status
    assert got.headers.get("content-range") == content_range
    assert body is None or got.body == body


async def test_if_range_with_another_version_gives_the_whole_file() -> None:
    async with web_tier() as web:
        old = (await web.put("x", b"old bytes")).headers["etag"]
        new = (await web.put("x", b"new bytes")).headers["etag"]

        assert (await web.get("x", "Range: bytes=0-2", f"If-Range: {new}")).body == b"new"
        assert (await web.get("x", "Range: bytes=0-2", f"If-Range: {old}")).body == b"new bytes"


async def test_if_range_with_a_date_gives_the_whole_file_since_two_versions_may_have_one_date() -> None:
    async with web_tier() as web:
        await web.put("x", b"new bytes")
        modified = (await web.get("x")).headers["last-modified"]

        got = await web.get("x", "Range: bytes=0-2", f"If-Range: {modified}")

    assert (got.status, got.body) == (200, b"new bytes")


async def test_a_client_that_has_the_file_is_told_304() -> None:
    async with web_tier() as web:
        etag = (await web.put("x", b"1")).headers["etag"]
        known = await web.get("x", f"If-None-Match: {etag}")
        soon = http_date(int(time.time()) + 10).decode()
        dated = await web.ask(request("HEAD", "/file?path=x", f"If-Modified-Since: {soon}"))
        other = await web.get("x", 'If-None-Match: "other"')
        failed = await web.get("x", 'If-Match: "other"')

    assert (known.status, known.headers["etag"]) == (304, etag)
    assert "content-length" not in known.headers
    assert (dated.status, other.status, failed.status) == (304, 200, 412)


# --- deleting ---


async def test_delete_is_204_once_and_then_404() -> None:
    async with web_tier() as web:
        await web.put("x", b"1")

        deleted = await web.ask(request("DELETE", "/file?path=x"))
        again = await web.ask(request("DELETE", "/file?path=x"))
        conditional = await web.ask(request("DELETE", "/file?path=x", "If-Match: *"))

    assert (deleted.status, deleted.headers["sfss-durable"]) == (204, "1/1")
    assert (again.status, conditional.status) == (404, 501)


# --- a server without versions ---


async def test_without_versions_the_etag_is_a_digest_of_the_bytes_and_nothing_is_claimed_durable() -> None:
    async with web_tier(Unversioned()) as web:
        put = await web.put("x", b"bytes")
        got = await web.get("x")
        head = await web.ask(request("HEAD", "/file?path=x"))
        same = await web.put("y", b"bytes")

    assert put.headers["etag"] == got.headers["etag"] == head.headers["etag"] == same.headers["etag"]
    assert "sfss-durable" not in put.headers
    assert "last-modified" not in got.headers
    assert head.headers["content-length"] == "5"


# --- names ---


async def test_a_name_in_any_script_is_taken_encoded_or_as_it_was_typed() -> None:
    async with web_tier() as web:
        await web.put("%E6%96%87%E4%BB%B6/%E7%85%A7%E7%89%87.jpg", b"1")
        typed = await web.ask("GET /file?path=文件/照片.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

        assert (typed.status, typed.body) == (200, b"1")
        assert "文件/照片.jpg".encode() in web.store.records


async def test_a_name_typed_byte_by_byte_is_the_same_name() -> None:
    async with web_tier() as web, await web.connect() as client:
        await client.send_byte_by_byte(
            "PUT /file?path=文 HTTP/1.1\r\nHost: é\r\nContent-Length: 2\r\n\r\n\xff".encode()
        )
        assert (await client.reply()).status == 200

        assert web.store.records["文".encode()].value == "\xff".encode()


@pytest.mark.parametrize(
    "query", ["", "?", "?path=", "?path=a&path=b", "?path=a//b", "?path=../a", "?path=%ff", "?path=a%00", "?path=a#b"]
)
async def test_a_doubtful_path_is_400_for_every_method(query: str) -> None:
    async with web_tier() as web:
        for method, page in (
            ("GET", "/file"),
            ("HEAD", "/file"),
            ("PUT", "/file"),
            ("DELETE", "/file"),
            ("POST", "/files"),
        ):
            assert (await web.ask(request(method, page + query))).status == 400
        assert web.store.records == {}


async def test_a_key_over_the_limit_is_400_and_names_it() -> None:
    async with web_tier() as web:
        assert (await web.put("a" * 250, b"1")).status == 200
        refused = await web.put("a" * 251, b"1")
        wide = await web.put("%20" * 100, b"1")

    assert (refused.status, wide.status) == (400, 400)
    assert "250" in json.loads(refused.body)["message"]


async def test_base64_keys_are_a_setting() -> None:
    async with web_tier(settings={"key_encoding": "base64"}) as web:
        await web.put("a/b", b"1")

        assert base64.b64encode(b"a/b") in web.store.records
        assert (await web.get("a/b")).body == b"1"
