"""What a relay is told: a value that no relay could work with is refused where it is made."""

from typing import Any

import pytest

from relay.config import RelayConfig

pytestmark = pytest.mark.unit

HERE = {"database_url": "postgresql+psycopg://here", "kafka": {"bootstrap.servers": "here:1"}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "exactly_once"),
        ("lease_s", 0.0),
        ("poll_s_max", 0.0),
        ("chunk", 0),
        ("partitions_ahead_days", 0),
    ],
)
def test_what_no_relay_could_work_with_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        RelayConfig(**HERE, **{name: value})  # type: ignore[arg-type]


def test_the_cursors_have_one_topic_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a name of its own, a command would not find the cursor that a killed relay left in Kafka."""
    monkeypatch.setenv("CURSOR_TOPIC", "another")
    config = RelayConfig(**HERE, topic_prefix="shop-", mode="exactly-once")  # type: ignore[arg-type]
    assert config.cursor_topic_name == "shop-outbox-cursor"
    assert config.needed_topics == ["shop-outbox-cursor"]
