"""What the server answers: the page, a list of what is shown, tiles, cells, and scores of areas that are drawn.

Paths in addresses name pictures of the gallery and files of the page, both looked up in tables: none is ever a path on
the disk. docs/view.md lists the addresses.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from wsistain.errors import ConfigError, WsistainError
from wsistain.viewing.gallery import Gallery
from wsistain.viewing.guard import App, Guard
from wsistain.viewing.pictures import Picture, thumbnail
from wsistain.viewing.tiles import MEDIA, TileCache, encode, etag_of

PAGE = Path(__file__).resolve().parent / "page"
PAGE_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
MOST_BODY = 2 << 20
THUMBNAIL_PX = 512

_KEEP = "private, max-age=600"
_ASK = "private, no-cache"
_NEVER = "no-store"


def page_files() -> dict[str, bytes]:
    """The files of the page by name."""
    return {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.suffix in PAGE_MEDIA}


def make_app(
    gallery: Gallery,
    *,
    token: str,
    hosts: tuple[str, ...],
    any_address: bool = False,
    ancestors: str = "'none'",
    on_request: Callable[[], None] | None = None,
) -> App:
    """The application, guarded; see `Guard` for the arguments.

    on_request : called for every request that names something of the gallery.
    """
    answers = _Answers(gallery)
    routes = [
        Route("/", answers.page),
        Route("/page/{name}", answers.page_file),
        Route("/favicon.ico", answers.favicon),
        Route("/api/results", answers.results),
        Route("/api/results/{id}", answers.result),
        Route("/api/results/{id}/scores", answers.scores, methods=["POST"]),
        Route("/tiles/{name}.dzi", answers.descriptor),
        Route("/tiles/{name}_files/{level:int}/{col:int}_{row:int}.{form}", answers.tile),
        Route("/frames/{name}.json", answers.frame),
        Route("/thumbnails/{name}.jpg", answers.thumbnail),
        Route("/cells/{id}/index.json", answers.cells),
        Route("/cells/{id}/{row}_{col}.json", answers.square),
        Route("/shapes/{id}.json", answers.shapes),
    ]
    app = Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found})
    app.router.redirect_slashes = False

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        if on_request is not None and scope["type"] == "http":
            on_request()
        await app(scope, receive, send)

    return Guard(watched, token=token, hosts=hosts, any_address=any_address, ancestors=ancestors)


async def _not_found(request: Request, error: Exception) -> Response:
    status = 405 if getattr(error, "status_code", 404) == 405 else 404
    return _refused(status, "there is nothing under this address")


def _refused(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status, headers={"cache-control": _NEVER})


class _Answers:
    """One method an address. What reads files runs on a thread, so that others are answered meanwhile."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery, self._tiles = gallery, TileCache()
        self._files = page_files()

    async def page(self, request: Request) -> Response:
        return Response(self._files["index.html"], media_type=PAGE_MEDIA[".html"], headers={"cache-control": _NEVER})

    async def page_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        data = self._files.get(name)
        if data is None:
            return _refused(404, "there is no such file of the page")
        return _tagged(request, data, PAGE_MEDIA[Path(name).suffix], etag_of(name, data.hex()), _ASK)

    async def favicon(self, request: Request) -> Response:
        return Response(status_code=204)

    async def results(self, request: Request) -> Response:
        return await _answered(lambda: JSONResponse(self._gallery.listing(), headers={"cache-control": _NEVER}))

    async def result(self, request: Request) -> Response:
        def find() -> Response:
            told = [r for r in self._gallery.listing()["results"] if r["id"] == request.path_params["id"]]
            return JSONResponse(told[0], headers={"cache-control": _NEVER}) if told else _refused(404, "no such result")

        return await _answered(find)

    async def descriptor(self, request: Request) -> Response:
        def describe() -> Response:
            picture = self._gallery.picture(request.path_params["name"])
            if picture is None:
                return _refused(404, "there is no picture of that name")
            text = picture.frame.descriptor(picture.form)
            return Response(text, media_type="application/xml", headers={"cache-control": _ASK})

        return await _answered(describe)

    async def frame(self, request: Request) -> Response:
        def describe() -> Response:
            picture = self._gallery.picture(request.path_params["name"])
            if picture is None:
                return _refused(404, "there is no picture of that name")
            return JSONResponse(picture.frame.facts(), headers={"cache-control": _ASK})

        return await _answered(describe)

    async def tile(self, request: Request) -> Response:
        name, form = request.path_params["name"], request.path_params["form"]
        level, col, row = (request.path_params[n] for n in ("level", "col", "row"))

        def make() -> Response:
            picture = self._gallery.picture(name)
            if picture is None or form != picture.form:
                return _refused(404, "there is no picture of that name and form")
            k = picture.frame.halvings - level
            if picture.frame.window(k, row, col) is None:
                return _refused(404, "there is no such tile")
            tile = self._tiles.get(name, picture, k, row, col)
            keep = _ASK if picture.version(k, row, col).startswith("begun") else _KEEP
            return _tagged(request, tile.data, tile.media, tile.etag, keep)

        return await _answered(make)

    async def thumbnail(self, request: Request) -> Response:
        def make() -> Response:
            name = request.path_params["name"]
            picture = self._gallery.picture(name)
            if picture is None or picture.form != "jpg":
                return _refused(404, "there is no picture of that name")
            return _tagged(
                request, encode(thumbnail(picture, THUMBNAIL_PX), "jpg"), MEDIA["jpg"], _tag(name, picture), _ASK
            )

        return await _answered(make)

    async def cells(self, request: Request) -> Response:
        def make() -> Response:
            cells = self._gallery.cells(request.path_params["id"])
            if cells is None:
                return _refused(404, "there are no cells of that result")
            return JSONResponse(cells.index(), headers={"cache-control": _ASK})

        return await _answered(make)

    async def square(self, request: Request) -> Response:
        def make() -> Response:
            try:
                row, col = (int(request.path_params[n]) for n in ("row", "col"))
            except ValueError:
                return _refused(404, "squares are named by two whole numbers")
            cells = self._gallery.cells(request.path_params["id"])
            if cells is None:
                return _refused(404, "there are no cells of that result")
            return JSONResponse(cells.square(row, col), headers={"cache-control": _ASK})

        return await _answered(make)

    async def shapes(self, request: Request) -> Response:
        return await _answered(
            lambda: JSONResponse(self._gallery.shapes(request.path_params["id"]), headers={"cache-control": _ASK})
        )

    async def scores(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BODY:
                return _refused(413, "an area has at most 20000 corners; draw it more simply")
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            return _refused(400, 'wanted JSON with an "area": a list of [x, y] in um')
        corners = values.get("area") if isinstance(values, dict) else None

        def make() -> Response:
            scores = self._gallery.score(request.path_params["id"], corners)
            if scores is None:
                return _refused(404, "there is no result of that name")
            return JSONResponse(scores, headers={"cache-control": _NEVER})

        return await _answered(make)


async def _answered(make: Callable[[], Response]) -> Response:
    """What `make` gives on a thread; what is wrong with a request or a file as one sentence."""
    try:
        return await run_in_threadpool(make)
    except ConfigError as error:
        return _refused(422, str(error))
    except WsistainError as error:
        return _refused(409, str(error))


def _tag(name: str, picture: Picture) -> str:
    k = next(k for k in range(picture.frame.halvings + 1) if max(picture.frame.size(k)) <= THUMBNAIL_PX)
    return etag_of("thumbnail", name, picture.version(k, 0, 0))


def _tagged(request: Request, data: bytes, media: str, etag: str, keep: str) -> Response:
    """The bytes, or 304 where the browser has them."""
    headers = {"etag": etag, "cache-control": keep}
    known = [t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")]
    if etag in known or known == ["*"]:
        return PlainTextResponse(status_code=304, headers=headers)
    return Response(data, media_type=media, headers=headers)
