"""Logs: one JSON object a line on standard error, from structlog and the standard library alike.

So is what Python itself would write there otherwise: warnings, and what nobody has caught. A reader of
the log that hangs up ends the log and not the process.
"""

import logging
import sys
import threading
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from innbox_process.config import LogSettings
from innbox_process.former_events import add_former_event
from innbox_process.hangups import mute

_log = structlog.get_logger(__name__)


def configure_logs(settings: LogSettings, process: str) -> None:
    """Set logging up for this process; every line carries the process's name."""

    def name_process(_logger: object, _method: str, event: EventDict) -> EventDict:
        # Not a context variable: threads would not have it.
        return {"process": process, **event}

    shared: list[Processor] = [
        name_process,
        add_former_event,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The default prints local variables, and a token may be among them.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    for chatty in ("apscheduler", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    _log_what_python_prints()


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; one that cannot be written is told in a line of its own, if any can be."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base's name
        error = sys.exception()
        if isinstance(error, BrokenPipeError):
            mute(self.stream)
        elif error and not isinstance(error, OSError) and record.name != __name__:
            lost = {"lost": str(record.msg), "of": record.name}
            _log.error("a log line could not be written", **lost, exc_info=error)


def _log_what_python_prints() -> None:
    logging.captureWarnings(capture=True)
    sys.excepthook = lambda _kind, error, _trace: _log.critical(
        "uncaught exception", exc_info=error
    )
    sys.unraisablehook = lambda ignored: _log.error(
        "exception ignored", where=repr(ignored.object), exc_info=ignored.exc_value
    )
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_type is not SystemExit:
        name = uncaught.thread.name if uncaught.thread else None
        _log.critical("uncaught exception", thread=name, exc_info=uncaught.exc_value)
