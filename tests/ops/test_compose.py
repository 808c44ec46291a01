"""compose.yaml cannot be run where there is no Docker, but what it says can be held against the code."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.settings import Settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PROCESSES = {"api", "relay", "rooms", "results"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    found: dict[str, Any] = composed["services"]
    return found


def test_it_runs_the_four_processes(services: dict[str, Any]) -> None:
    assert {name for name, one in services.items() if one.get("command") == [name]} == PROCESSES


@pytest.mark.parametrize("process", sorted(PROCESSES))
def test_it_sets_only_what_is_a_setting(services: dict[str, Any], process: str) -> None:
    known = {name.upper() for name in Settings.model_fields}
    assert set(services[process]["environment"]) <= known


@pytest.mark.parametrize("process", sorted(PROCESSES))
def test_processes_wait_for_the_migration_and_have_a_health_check(
    services: dict[str, Any], process: str
) -> None:
    waits = services[process]["depends_on"]
    assert waits == {"migrate": {"condition": "service_completed_successfully"}}
    assert services[process]["healthcheck"]["test"][:3] == ["CMD", "innbox", "health"]


def test_every_image_has_a_version_and_can_be_overridden(services: dict[str, Any]) -> None:
    for service in services.values():
        image = service["image"]
        assert image.startswith("${"), image
        assert "latest" not in image
        assert image.count(":") > 1, image


def test_no_secret_is_written_down(services: dict[str, Any]) -> None:
    for name in PROCESSES:
        assert services[name]["environment"]["JWT_KEY"].startswith("${JWT_KEY:?")
    assert "POSTGRES_PASSWORD:?" in services["postgres"]["environment"]["POSTGRES_PASSWORD"]
