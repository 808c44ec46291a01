"""Whether Kafka answers and has the topics that a process needs."""

from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection

from innbox_process.health import SILENT_S_MAX
from innbox_process.kafka import quiet_admin
from innbox_process.probing import ANSWER_S


class KafkaProbe:
    """Asks for the topics by their names: a shared cluster may have thousands of others."""

    part = "kafka"
    silence = f"no answer for more than {SILENT_S_MAX:g} s"

    def __init__(self, kafka: dict[str, Any], topics: Sequence[str]) -> None:
        self._topics = list(topics)
        self._admin = quiet_admin(kafka)

    def ask(self) -> str | None:
        topics = TopicCollection(self._topics)
        answers = self._admin.describe_topics(topics, request_timeout=ANSWER_S)
        missing = [name for name, answer in answers.items() if not _exists(answer)]
        if missing:
            return f"no such topics ({', '.join(sorted(missing))}): run `topics`"
        return None

    def end(self) -> None:
        """It waits for `ANSWER_S` at most."""

    def close(self) -> None:
        """The client ends with this object."""


def _exists(answer: Any) -> bool:  # noqa: ANN401 - a future of confluent-kafka, which has no types
    """Whether a topic is there; raises `BrokersAway`."""
    try:
        answer.result(ANSWER_S)
    except FutureTimeout as error:
        raise BrokersAway(f"no answer within {ANSWER_S:g} s") from error
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        if cause.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return False
        raise BrokersAway(cause.str()) from error
    return True


class BrokersAway(Exception):
    """The brokers do not answer, or refuse to."""
