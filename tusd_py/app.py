"""The web side: routes and lifespan; its composition root."""

from __future__ import annotations

import asyncio
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

from storage import durability
from storage.aio import Writes
from storage.embedded import Embedded
from storage.errors import StorageError
from storage.filestore import FileStore
from storage.leases import Leases
from storage.redis_address import Address
from storage.redis_info import RedisInfoStore
from storage.redis_jobs import RedisJobs
from storage.redis_listing import RedisListing
from storage.redis_locker import RedisLocker, end
from storage.redis_wire import RedisWire
from storage.syncs import Syncs
from storage.watch import Watches
from tusd_py import protocol, resumable
from tusd_py.call import Call, Uploads
from tusd_py.cors import Cors
from tusd_py.dispatch import Dispatcher
from tusd_py.download import Downloads
from tusd_py.events import Watching
from tusd_py.exchange import AsgiExchange
from tusd_py.feeds import Feeds, Places, Reader
from tusd_py.form import PATH, Forms
from tusd_py.jobs import Jobs
from tusd_py.listing import Jobs as AllJobs
from tusd_py.native import Front
from tusd_py.openapi import Described, Offered
from tusd_py.origin import Origin, TrustedPeers
from tusd_py.polling import Polling
from tusd_py.problems import unfound
from tusd_py.protocol import IETF, TUS, Limits, ProtocolError
from tusd_py.receiver import Receiver
from tusd_py.request_id import Named, RequestIds
from tusd_py.resource import JobResource
from tusd_py.resumable import Dialect
from tusd_py.tus import Tus
from tusd_py.uploads import cancel, carry_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from settings import Settings
    from storage.job import Job
    from storage.upload import Upload
    from tusd_py.exchange import Exchange
    from tusd_py.headers import Headers
    from tusd_py.native import Handle, NativeExchange
    from tusd_py.origin import Reach
    from tusd_py.protocol import Speaker

# Seconds a request waits for Redis before it answers 503.
_CONNECT = 1.0
_ANSWER = 3.0
_CONNECTIONS = 64
# What GET and OPTIONS ask is no haste.
_NATIVE = frozenset({b"POST", b"PUT", b"PATCH", b"HEAD", b"DELETE"})
# How many steps that wait for a disk go on at once.
_THREADS = 32
# What a request of the drafts' final form need not mark as its own.
_LEFT_OPEN = frozenset({"HEAD", "DELETE"})


class Files:
    """Serve uploads as a plain ASGI app; a GET of a finished one is a download."""

    def __init__(
        self,
        uploads: Uploads,
        downloads: Downloads | None,
        origin: Origin,
        exchange: Callable[[Scope, Receive, Send], Exchange],
    ) -> None:
        self._uploads = uploads
        self._downloads = downloads
        self._origin = origin
        self._path = origin.creation_path.encode()
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry out one request."""
        upload_id = scope["path_params"].get("upload_id", "").rstrip("/") or None
        exchange = self._exchange(scope, receive, send)
        reach = self._origin.of(scope, exchange.headers)
        speaker = await self._speaker(scope["method"], upload_id, exchange.headers, reach)
        if scope["method"] == "GET" and speaker.name == TUS and upload_id and self._downloads:
            download = await self._downloads.download(Request(scope))
            await download(scope, receive, send)
            return
        await self._carry_out(scope["method"], upload_id, exchange, reach, speaker)

    def find(self, method: bytes, target: bytes) -> Handle | None:
        """Return what carries out a request without a detour by the routes (native.Front)."""
        if method not in _NATIVE or not target.startswith(self._path):
            return None
        rest = target[len(self._path) :]
        if rest in {b"", b"/"}:
            return partial(self._carry_native, None)
        name = rest[1:].decode("ascii", "replace")
        if rest[:1] != b"/" or not protocol.is_upload_id(name):
            return None
        return partial(self._carry_native, name)

    async def _carry_native(self, upload_id: str | None, exchange: NativeExchange) -> None:
        method, headers = exchange.method, exchange.headers
        reach = self._origin.of(exchange.where, headers)
        # Nearly always it says so; to ask takes longer than to see it.
        says = "tus-resumable" in headers
        speaker = Tus(reach) if says else await self._speaker(method, upload_id, headers, reach)
        await self._carry_out(method, upload_id, exchange, reach, speaker)

    async def _carry_out(
        self,
        method: str,
        upload_id: str | None,
        exchange: Exchange,
        reach: Reach,
        speaker: Speaker,
    ) -> None:
        try:
            action = speaker.parse(method, upload_id, exchange.headers)
        except ProtocolError as error:
            head = method == "HEAD"
            await exchange.respond(speaker.refused(error, self._uploads.limits, head=head))
            return
        await carry_out(Call(speaker, exchange, reach, action), self._uploads)

    async def _speaker(
        self, method: str, upload_id: str | None, headers: Headers, reach: Reach
    ) -> Speaker:
        """Tell whose request it is; where it does not say, the upload's own dialect is meant."""
        if upload_id is not None and method == "GET":
            asks = await self._asks_where(upload_id, headers)
            return Dialect.of(headers) if asks else Tus(reach)
        if not resumable.speaks(method, headers):
            return Tus(reach)
        if upload_id is not None and method in _LEFT_OPEN and resumable.unmarked(headers):
            upload = await self._find(upload_id)
            if upload is not None and upload.dialect == TUS:
                return Tus(reach)
        return Dialect.of(headers)

    async def _asks_where(self, upload_id: str, headers: Headers) -> bool:
        """Tell whether a GET asks as HEAD does: of an upload of the drafts that goes on."""
        upload = None if "tus-resumable" in headers else await self._find(upload_id)
        if upload is None or upload.complete or upload.partial or upload.final:
            return False
        return upload.dialect == IETF or not resumable.unmarked(headers)

    async def _find(self, upload_id: str) -> Upload | None:
        if not protocol.is_upload_id(upload_id):
            return None
        try:
            # The journal, not Redis: it knows as well, and nobody waits twice for one that is away.
            return await to_thread.run_sync(self._uploads.data.look, upload_id)
        except StorageError:
            return None


class Probes:
    """Serve `GET /health` and `GET /ready`."""

    def __init__(self, data: FileStore, outbox: RedisJobs, min_free_bytes: int) -> None:
        self._data = data
        self._outbox = outbox
        self._min_free_bytes = min_free_bytes
        # Probes that hang are waited for by others of their kind alone.
        self._asking = CapacityLimiter(4)

    async def health(self, request: Request) -> Response:
        """Say that the process answers."""
        del request
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Say whether uploads can be taken; workers only count, they may come later."""
        del request
        disk = await self._ask(self._disk)
        workers = await self._ask(self._outbox.workers)
        redis = "ok" if isinstance(workers, int) else workers
        ready = redis == "ok" and disk == "ok"
        body = {"ready": ready, "redis": redis, "disk": disk}
        body["workers"] = workers if isinstance(workers, int) else None
        return JSONResponse(body, 200 if ready else 503)

    def _disk(self) -> str:
        self._data.prepare()
        free = self._data.free_bytes()
        return "ok" if free >= self._min_free_bytes else f"only {free} bytes are free"

    async def _ask(self, question: Callable[[], int | str]) -> int | str:
        try:
            async with asyncio.timeout(_ANSWER):
                return await to_thread.run_sync(
                    question, abandon_on_cancel=True, limiter=self._asking
                )
        except TimeoutError:
            return "no answer in time"
        except StorageError as error:
            return str(error)


def create_app(settings: Settings) -> Starlette:
    """Compose the web side; nothing is connected to or started before its lifespan."""
    embedded = None if settings.redis_url else Embedded(settings.upload_dir / "redis")
    url = settings.redis_url or (embedded.url if embedded else "")
    redis = _connect(url)
    data = FileStore(
        settings.upload_dir, settings.min_free_bytes, durability.choose(settings.durability)
    )
    wire = RedisWire(url)
    info = RedisInfoStore(wire)
    watches = Watches(redis)
    locker = RedisLocker(redis, wire)
    leases = Leases(locker, data, syncs=_syncs(settings))
    # Each holds some memory; a disk is busy with fewer.
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    receiver = Receiver(
        min(8, max(4, os.cpu_count() or 1)), descriptors // 8, writes=partial(Writes, 8)
    )
    outbox = RedisJobs.connect(url, data, settings)
    dispatcher = Dispatcher(outbox, embedded.start if embedded else lambda: None)
    uploads = Uploads(
        data=data,
        info=info,
        leases=leases,
        limits=Limits(
            settings.max_file_size,
            settings.upload_expiration_seconds,
            termination=not settings.disable_termination,
            video=settings.require_video,
            gone_as_not_found=settings.gone_as_not_found,
            download=not settings.disable_download,
        ),
        min_free_bytes=settings.min_free_bytes,
        finished=dispatcher.wake,
        closing=lambda: locker.closing,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await to_thread.run_sync(data.prepare)
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage")
        asyncio.get_running_loop().set_default_executor(threads)
        steps = (locker.run(), dispatcher.run(), watches.run())
        tasks = [asyncio.create_task(step) for step in steps]
        try:
            yield
        finally:
            await leases.aclose()
            await to_thread.run_sync(receiver.close)
            await end(*tasks)
            await wire.aclose()
            await redis.aclose()
            if embedded:
                await to_thread.run_sync(embedded.close)

    downloads = None if settings.disable_download else Downloads(info, data)
    trusted = TrustedPeers.parse(settings.trusted_proxies)
    origin = Origin(settings.public_url, settings.upload_path, trusted)
    exchange = partial(
        AsgiExchange, chunk_size=settings.chunk_size, stall=settings.upload_timeout_seconds
    )
    files = Files(uploads, downloads, origin, exchange)
    polling = Polling(watches)

    jobs = Jobs(
        info,
        data,
        origin,
        polling,
        remove=partial(cancel, uploads=uploads),
        retry=partial(_retry, outbox=outbox, dispatcher=dispatcher),
    )
    listing = AllJobs(RedisListing(redis), data, origin, settings.admin_token or "")
    reader = Reader(jobs.find, info, Places(outbox.upcoming), data.result)
    watching = Watching(Feeds(watches, reader.read, _describe), origin)
    probes = Probes(data, outbox, settings.min_free_bytes)
    cors, ids = Cors(settings.cors_origins), RequestIds()
    described = Described(_offered(settings, origin), origin)
    app = Starlette(
        routes=[
            Route(origin.creation_path, files),
            Route(f"{origin.creation_path}/{{upload_id:path}}", files),
            *_with_slash(PATH, Forms(uploads, origin, exchange)),
            *([Route("/jobs", listing.list)] if settings.admin_token else []),
            Route("/jobs/{job_id}", jobs.job, methods=_methods(settings)),
            Route("/jobs/{job_id}/retry", jobs.retry, methods=["POST"]),
            Route("/jobs/{job_id}/result", jobs.result),
            Route("/jobs/{job_id}/plates/{number}/image", jobs.image),
            Route("/openapi.json", described.json),
            Route("/openapi-uploads.json", described.uploads),
            Route("/docs", described.page),
            *_live(watching),
            Route("/health", probes.health),
            Route("/ready", probes.ready),
        ],
        lifespan=lifespan,
        middleware=[Middleware(Named, ids), *cors.middleware],
        exception_handlers={HTTPException: unfound},
    )

    # It would send clients where Host says, by http: whatever the proxy in front speaks.
    app.router.redirect_slashes = False
    stops = (leases.stop_all, polling.stop, watching.stop)
    # For whoever runs the server: a request body in flight is told to stop before a shutdown.
    app.state.shutdown = lambda: [stop() for stop in stops]
    app.state.front = Front(
        files.find,
        cors.fields,
        settings.chunk_size,
        settings.upload_timeout_seconds,
        receiver,
        ids,
    )
    return app


async def _retry(job_id: str, outbox: RedisJobs, dispatcher: Dispatcher) -> None:
    await to_thread.run_sync(outbox.retry, job_id)
    dispatcher.wake()


def _offered(settings: Settings, origin: Origin) -> Offered:
    return Offered(
        files=origin.creation_path,
        most_bytes=settings.max_file_size,
        listing=settings.admin_token is not None,
        termination=not settings.disable_termination,
        download=not settings.disable_download,
    )


def _with_slash(path: str, endpoint: Forms) -> list[BaseRoute]:
    return [Route(path, endpoint), Route(f"{path}/", endpoint)]


def _live(watching: Watching) -> list[BaseRoute]:
    stream = partial(Route, endpoint=watching, methods=["GET"], include_in_schema=False)
    return [
        stream("/jobs/{job_id}/events"),
        stream("/events"),
        WebSocketRoute("/jobs/{job_id}/ws", watching),
        WebSocketRoute("/events/ws", watching),
    ]


def _describe(job: Job, upload: Upload | None, base: str) -> str:
    return JobResource.of_upload(job, upload, base).model_dump_json()


def _methods(settings: Settings) -> list[str]:
    """Return what can be done with a job."""
    return ["GET"] if settings.disable_termination else ["GET", "DELETE"]


def _syncs(settings: Settings) -> Syncs:
    if settings.durability != "interval":
        return Syncs()
    return Syncs(settings.durability_interval_ms / 1000, settings.durability_interval_bytes)


def _connect(url: str) -> Redis:
    pool = BlockingConnectionPool(
        **Address.parse(url).async_pool_options(),
        decode_responses=True,
        max_connections=_CONNECTIONS,
        timeout=_ANSWER,
        socket_connect_timeout=_CONNECT,
        socket_timeout=_ANSWER,
        # Once more on a fresh connection: the server may have been restarted since the last use.
        retry=Retry(NoBackoff(), 1),
    )
    return Redis.from_pool(pool)
