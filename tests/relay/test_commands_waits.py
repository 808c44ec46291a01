"""An operator's command ends with a clear message, and soon, when somebody keeps a lock that it needs."""

import sys
from time import monotonic

import pytest
from sqlalchemy import Engine, text

import relay.cli
from innbox_process import database
from ops.cli import main
from ops.environment import as_environment
from relay.cli import exits, migrate
from runtime.settings import Settings

TABLES = "outbox.message, outbox.shard, outbox.blocked_key, outbox.dead_letter, outbox.replay"
# More than one wait for a lock.
SOON_S = 15
# Ends the one who keeps it, should a command wait for good.
LET_GO = text("SET LOCAL idle_in_transaction_session_timeout = '30s'")


@pytest.mark.parametrize(
    "command",
    [
        "shards",
        "split 1",
        "blocked list",
        "blocked retry 7",
        "blocked retry --all --yes",
        "blocked skip 7 --yes",
        "blocked skipped",
        "audit",
        "replay --key 7 --dry-run",
        "replays",
        "rebase --yes",
    ],
)
def test_a_command_does_not_wait_for_a_lock_that_somebody_keeps(
    command: str,
    engine: Engine,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 1)
    monkeypatch.setattr("relay.cli.deployment.configure_logs", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["innbox", "outbox", *command.split()])
    with engine.begin() as keeper:
        keeper.execute(LET_GO)
        keeper.execute(text(f"LOCK TABLE {TABLES} IN ACCESS EXCLUSIVE MODE"))
        started_at = monotonic()
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == exits.FAILED
        assert monotonic() - started_at < SOON_S
    said = capsys.readouterr().err
    assert "another transaction holds a lock" in said
    assert "pg_stat_activity" in said


def test_a_migration_does_not_wait_for_one_that_hangs(
    engine: Engine,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    monkeypatch.setattr(sys, "argv", ["innbox-relay", "migrate"])
    with engine.begin() as keeper:
        keeper.execute(LET_GO)
        keeper.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": migrate.LOCK})
        started_at = monotonic()
        assert exits.run(relay.cli.cli, "innbox-relay") == exits.FAILED
        assert monotonic() - started_at < SOON_S
    assert "another transaction holds a lock" in capsys.readouterr().err
