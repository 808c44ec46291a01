"""The contract, fuzzed against the running system: API, relay, rooms and results, on real servers.

Whatever is sent, in whatever order the links allow, the answer is one that the OpenAPI document has, and
never a fault of ours. `schemathesis.toml` says how, and what is left out and why.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from api.identity.scopes import INVENTORY, OPERATE, READ, STAFF, WRITE
from api.identity.signing import sign
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from domain.reservations.store import SETTLED_CHANNEL
from outbox import Doorbell
from runtime.settings import Settings
from tests.support.api_client import ME, Api, an_api
from tests.support.saga import a_consumer, a_relay

CONFIGURATION = Path(__file__).parents[1] / "support" / "schemathesis.toml"
ALL_SCOPES = (READ, WRITE, STAFF, INVENTORY, OPERATE)
LATE_S = 60.0
SECONDS_MAX = 300
in_proof = pytest.mark.proof  # the same for longer


@pytest.fixture
def running(settings: Settings, engine: Engine) -> Iterator[Api]:
    with ExitStack() as stack:
        settled = stack.enter_context(closing(Doorbell(engine, SETTLED_CHANNEL)))
        stack.enter_context(a_relay(settings))
        stack.enter_context(a_consumer(settings, engine, RoomsHandler()))
        stack.enter_context(a_consumer(settings, engine, ResultsHandler(settled)))
        yield stack.enter_context(
            an_api(
                settings.database_url,
                kafka_bootstrap_servers=settings.kafka_bootstrap_servers,
                kafka_prefix=settings.kafka_prefix,
                # A preference to wait is drawn, too, and should not make the test wait long.
                wait_s_max=0.2,
                jwt_leeway_s=2 * LATE_S,
                # Bounds that protect the service from who does just what this test does.
                requests_per_s_max=100_000,
                requests_burst_max=1_000_000,
                pending_per_member_max=1_000_000,
            )
        )


@pytest.mark.parametrize("examples", [20, pytest.param(200, marks=in_proof)])
def test_whatever_is_sent_is_answered_as_documented(
    running: Api, tmp_path: Path, examples: int
) -> None:
    """Examples, every bound of every schema and just beyond, and what chance draws from a fixed seed."""
    options = ("--phases", "examples,coverage,fuzzing", "--max-examples", str(examples))
    fuzzed(running, tmp_path, *options)


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=in_proof)])
def test_whatever_follows_is_answered_as_documented(
    running: Api, tmp_path: Path, seconds: int
) -> None:
    """What one answer leads to, along the links.

    The rooms answer when they do, so the same steps need not lead to the same place. A run ends where
    that shows; the next begins with the next seed, until the time is over.
    """
    options = ("--phases", "stateful", "--seed", "1", "--max-time", str(seconds))
    assert "API Links" in fuzzed(running, tmp_path, *options)


def fuzzed(api: Api, folder: Path, *options: str) -> str:
    """Run schemathesis in a process of its own, and return what it says when it has found nothing."""
    run = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run",
            *options, f"{api.url}/schema/openapi.json",
        ],
        cwd=folder,  # it would leave files where it runs
        env=os.environ
        | {
            "PYTHONPATH": str(CONFIGURATION.parent.parent),
            "INNBOX_TOKEN": sign(api.settings, ME, ALL_SCOPES),
            "INNBOX_LATE_TOKEN": sign(api.settings, ME, ALL_SCOPES, lifetime_s=-LATE_S),
        },
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )  # fmt: skip
    print(run.stdout)  # noqa: T201 - pytest shows it when something is found
    assert run.returncode == 0, run.stderr
    return run.stdout
