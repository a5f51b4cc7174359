"""How every process of ours logs: structlog and the standard library in one stream, one format."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# They name requests and files, or repeat in their own words what we say in ours.
_QUIET = ("rq", "uvicorn.access", "rapidocr", "RapidOCR")


class LogSettings(Protocol):
    """What is read of the settings."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> str: ...


def configure(settings: LogSettings) -> None:
    """Send every log line to stderr in the format and from the level that the settings name."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _renderers(settings)
    structlog.configure(
        processors=[*shared, structlog.processors.StackInfoRenderer(), *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Past the standard library, whose records cost five times as much as what they say.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # What libraries add to their records may name files.
            foreign_pre_chain=shared + [structlog.stdlib.ExtraAdder()] * (level <= logging.DEBUG),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET:
        _send_to_root(name, logging.NOTSET if level <= logging.DEBUG else logging.WARNING)
    # It warns of what clients send, who are told themselves.
    _send_to_root("python_multipart", logging.NOTSET if level <= logging.DEBUG else logging.ERROR)


def settle() -> None:
    """Have each line cost less from now on, in a process that configures nothing anew."""
    structlog.configure(**{**structlog.get_config(), "cache_logger_on_first_use": True})


def _renderers(settings: LogSettings) -> list[Any]:
    if settings.log_format == "json":
        # The usual one shows local variables, and so what was read of a plate.
        traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(traceback),
            structlog.processors.JSONRenderer(),
        ]
    colors = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback
    )
    return [renderer if colors else _Plain(renderer)]


class _Plain:
    """Render as structlog does on a console, at a tenth of the cost where nothing is special."""

    _special = frozenset({"exc_info", "exception", "stack", "logger", "logger_name"})

    def __init__(self, usual: structlog.dev.ConsoleRenderer) -> None:
        self._usual = usual

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> Any:
        if not self._special.isdisjoint(event):
            return self._usual(logger, name, event)
        when, level, what = event.pop("timestamp"), event.pop("level"), event.pop("event")
        if not event:
            return f"{when} [{level:<9}] {what}"
        pairs = " ".join(f"{key}={_shown(event[key])}" for key in sorted(event))
        return f"{when} [{level:<9}] {what:<30} {pairs}"


def _shown(value: object) -> str:
    plain = isinstance(value, str) and value.isprintable() and " " not in value
    return str(value) if plain else repr(value)


def _send_to_root(name: str, level: int) -> None:
    """Take a library's own handlers away and let its loggers speak through ours."""
    known = [one for one in logging.root.manager.loggerDict if one.startswith(f"{name}.")]
    for logger in (logging.getLogger(one) for one in (name, *known)):
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)
