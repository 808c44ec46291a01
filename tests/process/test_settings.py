"""Settings are read once and complain once, about everything."""

from pathlib import Path

import pytest
from sqlalchemy import make_url

from ops.environment import as_environment, settings_for, signing_key
from runtime.settings import Settings, SettingsError, load_settings

pytestmark = pytest.mark.unit

SERVERS = {"database_url": "postgresql+psycopg://a@b/c", "kafka_bootstrap_servers": "b:9092"}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_all_problems_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "ninety")
    monkeypatch.setenv("LEASE_S", "-1")
    monkeypatch.setenv("KAFKA_PREFIX", "our own ")
    with pytest.raises(SettingsError) as caught:
        load_settings()

    for name in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "API_PORT", "LEASE_S", "KAFKA_PREFIX"):
        assert name in str(caught.value)


def test_the_contexts_share_one_database_unless_told_otherwise() -> None:
    settings = load_settings(**SERVERS)
    assert settings.databases == {SERVERS["database_url"]: ["reservations", "rooms"]}


def test_each_context_may_have_a_database_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMS_DATABASE_URL", "postgresql+psycopg://a@b/rooms")
    settings = load_settings(**SERVERS)
    assert settings.database_of("rooms") == "postgresql+psycopg://a@b/rooms"
    assert settings.database_of("reservations") == SERVERS["database_url"]


def test_settings_never_change() -> None:
    settings = load_settings(**SERVERS)
    with pytest.raises(ValueError, match="frozen"):
        settings.lease_s = 1.0


def test_a_secret_is_not_shown() -> None:
    assert "hidden away" not in repr(load_settings(**SERVERS, jwt_key="hidden away"))


def test_what_is_missing_is_named_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="innbox local start"):
        settings_for(tmp_path)


def test_a_child_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given = load_settings(
        **SERVERS,
        jwt_key="a secret",
        lease_s=3.5,
        kafka_properties={"debug": "topic"},
        allowed_hosts="inn.example, *.inn.example",
        trusted_proxies=("10.0.0.0/8", "::1"),
    )
    assert given.allowed_hosts == ("inn.example", "*.inn.example")
    for name, value in as_environment(given).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


def test_a_signing_key_is_made_once_and_kept_to_its_owner(tmp_path: Path) -> None:
    key = signing_key(tmp_path)
    assert signing_key(tmp_path) == key
    assert (tmp_path / "jwt.key").stat().st_mode & 0o077 == 0


def test_in_production_no_signing_key_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    settings_for(tmp_path, **SERVERS)
    assert not (tmp_path / "jwt.key").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://a:p#/?[@b:5432/c",
        "postgresql+psycopg:///c?host=/run/postgresql",
        "postgresql+psycopg://a@[::1]:5432/c",
    ],
)
def test_a_url_that_sqlalchemy_reads_is_taken_as_it_is(url: str) -> None:
    assert make_url(url)
    assert load_settings(**SERVERS | {"database_url": url}).database_url == url


@pytest.mark.parametrize("url", ["mysql://a@b/c", "b:5432", "postgresql+psycopg://a@b:port/c"])
def test_a_url_that_no_engine_could_be_made_of_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        load_settings(**SERVERS | {"database_url": url})


def test_the_driver_need_not_be_named() -> None:
    """SQLAlchemy 2.0 would take another one."""
    settings = load_settings(**SERVERS | {"database_url": "postgresql://a@b/c"})
    assert settings.database_url == settings.rooms_database_url == "postgresql+psycopg://a@b/c"
