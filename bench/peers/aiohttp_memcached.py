"""Files by path with aiohttp and aiomcache over one memcached, as anybody would write it: one process, no disk.

`python -m bench.peers.aiohttp_memcached PORT MEMCACHED_PORT`.
"""

import sys

import aiomcache
import uvloop
from aiohttp import web

CACHE = web.AppKey("cache", aiomcache.Client)


async def get(request: web.Request) -> web.Response:
    value = await request.app[CACHE].get(request.query["path"].encode())
    if value is None:
        raise web.HTTPNotFound
    return web.Response(body=value, content_type="application/octet-stream")


async def put(request: web.Request) -> web.Response:
    await request.app[CACHE].set(request.query["path"].encode(), await request.read())
    return web.Response()


async def delete(request: web.Request) -> web.Response:
    await request.app[CACHE].delete(request.query["path"].encode())
    return web.Response(status=204)


def main(port: int, memcached_port: int) -> None:
    app = web.Application(client_max_size=4 << 20)
    app[CACHE] = aiomcache.Client("127.0.0.1", memcached_port, pool_size=32)
    app.router.add_get("/file", get, allow_head=False)
    app.router.add_put("/file", put)
    app.router.add_delete("/file", delete)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
