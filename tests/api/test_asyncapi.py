"""The AsyncAPI document says of the topics what is true: of real messages, and by our own readers."""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from confluent_kafka import Message
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from api.identity.scopes import INVENTORY, READ, WRITE
from api.identity.signing import sign
from domain import messages
from domain.answers import Answer, ReasonCode
from domain.messages import (
    RESERVATION_RESULT,
    RESULTS_GROUP,
    ROOMS_GROUP,
    TOPICS,
    PoisonMessage,
    decode_result,
    decode_room_request,
)
from domain.stay import Stay
from innbox_client import Innbox
from runtime.settings import Settings
from tests.support.api_client import an_api, today
from tests.support.kafka_reader import read_topics
from tests.support.waiting import eventually
from tests.support.whole_saga import everything

PAGE = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(PAGE.read_text())
ID = UUID(int=1)
STAY = Stay(date(2026, 12, 24), date(2026, 12, 27))

_HERE = "urn:innbox:asyncapi"
_REGISTRY: Registry[Any] = Registry().with_resource(_HERE, DRAFT7.create_resource(DOCUMENT))


@pytest.mark.unit
def test_every_topic_is_described_and_no_other() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {channel["address"] for channel in DOCUMENT["channels"].values()} == set(TOPICS)


@pytest.mark.unit
def test_each_topic_has_one_side_that_writes_and_another_that_reads_in_its_group() -> None:
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for operation in DOCUMENT["operations"].values():
        channel = _resolved(operation["channel"])
        [tag] = operation["tags"]
        assert operation["action"] not in sides[channel["address"]]
        sides[channel["address"]][operation["action"]] = tag["name"]
        if operation["action"] == "receive":
            group = operation["bindings"]["kafka"]["groupId"]["enum"]
            assert group == [ROOMS_GROUP if tag["name"] == "rooms" else RESULTS_GROUP]
    assert sides == {
        "room-reserve": {"send": "reservations", "receive": "rooms"},
        "room-cancel": {"send": "reservations", "receive": "rooms"},
        "reservation-result": {"send": "rooms", "receive": "reservations"},
    }


@pytest.mark.unit
def test_every_reference_leads_somewhere_and_every_part_is_referred_to() -> None:
    references = set(_references(DOCUMENT))
    for reference in references:
        assert _resolved({"$ref": reference})
    for kind, parts in DOCUMENT["components"].items():
        assert {f"#/components/{kind}/{name}" for name in parts} <= references


@pytest.mark.unit
@pytest.mark.parametrize("topic", TOPICS)
def test_the_examples_are_as_described_and_our_readers_understand_them(topic: str) -> None:
    examples = _message(topic)["examples"]
    assert examples
    for example in examples:
        _check(topic, example["payload"], example["headers"])
        value = json.dumps(example["payload"]).encode()
        if topic == RESERVATION_RESULT:
            read = decode_result(value, ID)
            assert read.message == example["payload"]["message"]
        else:
            asked = decode_room_request(topic, value, ID)
            assert str(asked.stay.check_in) == example["payload"]["checkInDate"]


@pytest.mark.unit
def test_the_codes_of_a_refusal_are_the_rooms_own() -> None:
    """Each code that the rooms know is one that the document allows, and a code it must be."""
    for code in ReasonCode:
        _check_payload(RESERVATION_RESULT, _result(Answer.FAILURE, f"{code}: some words"))
    assert _faults(RESERVATION_RESULT, _result(Answer.FAILURE, "FULL: some words"))
    assert _faults(RESERVATION_RESULT, _result(Answer.FAILURE, ""))
    assert _faults(RESERVATION_RESULT, _result(Answer.SUCCESS, "SOLD_OUT: some words"))


@pytest.mark.unit
@pytest.mark.parametrize(
    "change",
    [
        {"reservationId": 0},
        {"reservationId": 2**63},
        {"reservationId": "1"},
        {"roomId": None},
        {"checkInDate": "24.12.2026"},
    ],
    ids=str,
)
def test_a_stay_that_the_document_refuses_is_poison_to_our_reader(change: dict[str, Any]) -> None:
    stay = {**json.loads(messages.room_reserve(1, 7, STAY).value), **change}
    assert _faults("room-reserve", stay)
    with pytest.raises(PoisonMessage):
        decode_room_request("room-reserve", json.dumps(stay).encode(), ID)


def test_every_message_of_a_real_saga_is_as_described(settings: Settings) -> None:
    """Value, headers and key, as an outsider reads them from the brokers."""
    check_in = today() + timedelta(days=30)
    nights = (check_in, check_in + timedelta(days=3))
    with everything(settings), an_api(settings.database_url) as api:
        token = sign(api.settings, 7, (READ, WRITE, INVENTORY))
        with Innbox(api.url, token) as innbox:
            innbox.set_nights(7, *nights, capacity=1)
            first = innbox.reserve(7, *nights, wait_s=20)
            second = innbox.reserve(7, *nights, wait_s=20)
            assert (first.status, second.status) == ("CONFIRMED", "REJECTED")
            innbox.cancel(first.id)
            eventually(lambda: innbox.get(first.id).status == "CANCELLED")
        found = read_topics(settings, TOPICS, until=lambda found: len(found) >= 6)

    seen = set()
    for message in found:
        topic = (message.topic() or "").removeprefix(settings.kafka_prefix)
        payload, headers = json.loads(message.value() or b""), _headers(message)
        _check(topic, payload, headers)
        key = (message.key() or b"").decode()
        Draft7Validator(_message(topic)["bindings"]["kafka"]["key"]).validate(key)
        assert key == str(payload["reservationId" if topic == RESERVATION_RESULT else "roomId"])
        assert "traceparent" in headers
        seen.add((topic, payload.get("status")))
    assert seen == {
        ("room-reserve", None),
        ("room-cancel", None),
        ("reservation-result", "SUCCESS"),
        ("reservation-result", "FAILURE"),
        ("reservation-result", "CANCEL"),
    }


def _result(status: Answer, text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(messages.reservation_result(1, status, text).value)
    return value


def _headers(message: Message) -> dict[str, str]:
    given: Any = message.headers() or []
    assert len(dict(given)) == len(given), "a header is there twice"
    return {name: value.decode() for name, value in given}


def _check(topic: str, payload: object, headers: dict[str, str]) -> None:
    _check_payload(topic, payload)
    _validator(_pointer(topic, "headers")).validate(headers)
    assert datetime.fromisoformat(headers["ce_time"]).tzinfo is not None


def _check_payload(topic: str, payload: object) -> None:
    assert _faults(topic, payload) == []


def _faults(topic: str, payload: object) -> list[str]:
    return [str(fault) for fault in _validator(_pointer(topic, "payload")).iter_errors(payload)]


def _validator(pointer: str) -> Any:
    # AsyncAPI's schemas are draft 7; its checker alone does not know what a UUID is.
    return Draft7Validator(
        {"$ref": _HERE + pointer},
        registry=_REGISTRY,
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def _pointer(topic: str, part: str) -> str:
    name = next(
        name for name, channel in DOCUMENT["channels"].items() if channel["address"] == topic
    )
    [[message, reference]] = DOCUMENT["channels"][name]["messages"].items()
    assert message == name
    return f"{reference['$ref']}/{part}"


def _message(topic: str) -> dict[str, Any]:
    found: dict[str, Any] = _resolved({"$ref": _pointer(topic, "").removesuffix("/")})
    return found


def _resolved(reference: dict[str, str]) -> Any:
    found: Any = DOCUMENT
    for name in reference["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)
