"""Errors become HTTP here and nowhere else: RFC 9457, `application/problem+json`.

500 is a bug: it is logged, and nothing of it is told.
"""

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException
from sqlalchemy import exc

from api.problems import DATABASE_UNAVAILABLE, MEDIA_TYPE, NotFound, ProblemError, faults
from api.problems.faults import Fault
from api.requests.trace import traceparent
from domain.rooms.change import InvalidRange
from domain.stay import InvalidStay
from innbox_process.bounds import OutcomeUnknown
from innbox_process.database import advice, is_not_migrated, is_outage
from innbox_process.errors import first_line
from outbox import UnknownTopic
from runtime.traces import trace_id

_log = structlog.get_logger(__name__)


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer an error, and log it if the caller cannot have caused it."""
    found = _problem(error)
    status, path = found.problem.status, request.url.path
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("unexpected error", path=path, advice=advice(error), exc_info=error)
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("unavailable", path=path, error=first_line(error))

    trace = trace_id(traceparent(request.scope))
    return Response(
        msgspec.json.encode(msgspec.structs.replace(found.problem, instance=path, trace_id=trace)),
        status_code=status,
        media_type=MediaType.JSON,
        headers={**found.headers, "Content-Type": MEDIA_TYPE},
    )


def _problem(error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case exc.SQLAlchemyError() | UnknownTopic():
            return _of_database(error)
        case InvalidRange():
            return ProblemError(error.code, str(error))
        case InvalidStay():
            fault = Fault(error.reason, pointer="#/checkOutDate")
            return ProblemError(error.code, str(error), fault)
        case msgspec.DecodeError() | ValidationException():
            return _of_content(error)
    return _of_litestar(error)


def _of_database(error: Exception) -> ProblemError:
    if isinstance(getattr(error, "orig", None), OutcomeUnknown):
        return ProblemError("OUTCOME_UNKNOWN")
    # So is a server that is read-only after a failover, and one whose schema is not migrated yet, or
    # whose topics are not declared: `innbox topics` was not run.
    away = (*DATABASE_UNAVAILABLE, UnknownTopic)
    if isinstance(error, away) or is_outage(error) or is_not_migrated(error):
        return ProblemError("UNAVAILABLE")
    return ProblemError("INTERNAL_ERROR")


def _of_content(error: msgspec.DecodeError | ValidationException) -> ProblemError:
    match error:
        case msgspec.ValidationError():
            found: tuple[Fault, ...] = (faults.of_body(error),)
        case msgspec.DecodeError():
            return ProblemError("MALFORMED_BODY", f"the body is not JSON: {error}")
        case ValidationException():
            if faults.is_of_path(error):  # an id that no row can have is an id that is not there
                return NotFound()
            found = faults.of_parameters(error)
    return ProblemError("INVALID_REQUEST", "; ".join(fault.detail for fault in found), *found)


def _of_litestar(error: Exception) -> ProblemError:
    """Name what Litestar checks by itself: routes, methods, sizes; all else was not expected."""
    match error:
        case HTTPException(status_code=400):
            return ProblemError("BAD_REQUEST", error.detail)
        case HTTPException(status_code=404):
            return NotFound()
        case HTTPException(status_code=405):
            return ProblemError("METHOD_NOT_ALLOWED", headers=error.headers)
        case HTTPException(status_code=413):
            return ProblemError("BODY_TOO_LARGE")
        case HTTPException(detail="client disconnected prematurely"):  # nobody reads the answer
            return ProblemError("BAD_REQUEST", "the body ended early")
    return ProblemError("INTERNAL_ERROR")
