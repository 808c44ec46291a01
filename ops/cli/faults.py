"""What may go wrong in a command of `innbox`: what `relay.cli.exits` knows, and the API's answers."""

from relay.cli import exits


def expected() -> exits.Expected:
    """As `relay.cli.exits.expected`, and what the API may answer."""
    import httpx

    from innbox_client import Problem, Unavailable

    return (*exits.expected(), Problem, Unavailable, httpx.TransportError)


def in_words(error: Exception) -> str:
    """Say what went wrong, for one of the expected errors."""
    from innbox_client import Problem, Unavailable
    from ops.cli.api_client import explained

    if isinstance(error, Problem | Unavailable):
        return explained(error)
    return exits.in_words(error)


def is_refusal(error: Exception) -> bool:
    """Return whether the API refused the request itself.

    A missing or invalid token (401) is no refusal of the request, and neither is another program's page.
    """
    import httpx

    from innbox_client import Problem

    return (
        isinstance(error, Problem)
        and httpx.codes.is_client_error(error.status)
        and error.status != httpx.codes.UNAUTHORIZED
        and error.type != "about:blank"
    )
