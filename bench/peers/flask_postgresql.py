"""Files by path with Flask over PostgreSQL, as anybody would write it: one row a file, on disk before it is answered.

`gunicorn --workers 2 --threads 8 bench.peers.flask_postgresql:app`, with `BENCH_POSTGRESQL` for psycopg to connect by,
and there `CREATE TABLE files (path text PRIMARY KEY, body bytea NOT NULL)`.
"""

import os

import flask
import psycopg_pool

READ = "SELECT body FROM files WHERE path = %s"
WRITE = "INSERT INTO files VALUES (%s, %s) ON CONFLICT (path) DO UPDATE SET body = excluded.body"

pool = psycopg_pool.ConnectionPool(os.environ["BENCH_POSTGRESQL"], min_size=1, max_size=8, open=True)


def get() -> flask.Response:
    with pool.connection() as connection:
        row = connection.execute(READ, [flask.request.args["path"]], binary=True).fetchone()
    if row is None:
        flask.abort(404)
    return flask.Response(row[0], mimetype="application/octet-stream")


def put() -> flask.Response:
    with pool.connection() as connection:
        connection.execute(WRITE, [flask.request.args["path"], flask.request.get_data()])
    return flask.Response()


app = flask.Flask(__name__)
app.add_url_rule("/file", "get", get, methods=["GET"])
app.add_url_rule("/file", "put", put, methods=["PUT"])
