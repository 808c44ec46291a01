"""The OpenAPI document: all operations and errors have examples, and these are true to their schemas."""

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api.app import create_app
from api.identity.scopes import SCOPES
from api.openapi.document import Document, document
from tests.support.api_client import some_settings

pytestmark = pytest.mark.unit

PAGE_SIZE_MAX = 50
ANY_MEMBERS = {"400", "401", "422", "429", "500", "503"}


@pytest.fixture(scope="module")
def described() -> Document:
    app = create_app(some_settings("postgresql+psycopg://nobody@nowhere/nothing"))
    return document(app, PAGE_SIZE_MAX)


def operations(described: Document) -> Iterator[tuple[str, Document]]:
    for path, item in described["paths"].items():
        for operation in item.values():
            yield path, operation


def media_of(operation: Document) -> Iterator[tuple[str, Document]]:
    """All that an operation takes and answers, with a name for it."""
    id_ = operation["operationId"]
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        yield f"{id_} takes {kind}", media
    for status, response in operation["responses"].items():
        for kind, media in (response.get("content") or {}).items():
            yield f"{id_} {status} {kind}", media


def test_it_is_openapi_3_1(described: Document) -> None:
    assert described["openapi"].startswith("3.1")


def test_each_body_that_is_taken_or_answered_has_an_example(described: Document) -> None:
    missing = [
        name
        for _, operation in operations(described)
        for name, media in media_of(operation)
        if not media.get("examples")
    ]
    assert missing == []


def test_each_example_is_true_to_its_schema(described: Document) -> None:
    wrong = [
        f"{name}: {error.json_path} {error.message}"
        for _, operation in operations(described)
        for name, media in media_of(operation)
        for example in media["examples"].values()
        for error in faults(described, media["schema"], example["value"])
    ]
    assert wrong == []


def test_each_example_of_a_parameter_is_true_to_its_schema(described: Document) -> None:
    wrong = [
        f"{operation['operationId']} {parameter['name']}: {error.message}"
        for _, operation in operations(described)
        for parameter in operation.get("parameters", ())
        if "example" in parameter
        for error in faults(described, parameter["schema"], parameter["example"])
    ]
    assert wrong == []


def test_the_examples_of_an_error_are_of_its_status(described: Document) -> None:
    for _, operation in operations(described):
        for status, response in operation["responses"].items():
            for media in response.get("content", {}).values():
                if status >= "400":
                    statuses = {
                        example["value"]["status"] for example in media["examples"].values()
                    }
                    assert statuses == {int(status)}


def test_what_any_member_may_be_answered_is_said_of_each_operation(described: Document) -> None:
    for path, operation in operations(described):
        documented = set(operation["responses"])
        if not path.startswith("/v1"):
            assert "security" not in operation
            continue
        expected = ANY_MEMBERS | ({"403"} if operation["security"] != [{"bearer": []}] else set())
        if "{reservation_id}" in path:
            expected |= {"404"}
        if "requestBody" in operation:
            expected |= {"413", "415"}
        assert expected <= documented, operation["operationId"]


def test_a_scope_that_is_needed_is_one_that_is_described(described: Document) -> None:
    """And 403 is said where, and only where, one is needed."""
    scheme = described["components"]["securitySchemes"]["bearer"]
    for path, operation in operations(described):
        if path.startswith("/v1"):
            [scopes] = [one["bearer"] for one in operation["security"]]
            assert set(scopes) <= set(SCOPES)
            assert all(f"`{scope}`" in scheme["description"] for scope in scopes)
            assert bool(scopes) == ("403" in operation["responses"]), operation["operationId"]


def test_unknown_fields_of_a_body_are_ruled_out(described: Document) -> None:
    for _, operation in operations(described):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body:
            name = body["schema"]["$ref"].rpartition("/")[2]
            assert described["components"]["schemas"][name]["additionalProperties"] is False


def test_links_lead_to_operations_that_take_what_they_give(described: Document) -> None:
    takes = {
        operation["operationId"]: {one["name"] for one in operation.get("parameters", ())}
        for _, operation in operations(described)
    }
    links = [
        link
        for _, operation in operations(described)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert len(links) >= 10
    for link in links:
        assert set(link["parameters"]) <= takes[link["operationId"]]


def test_the_longest_page_is_the_one_that_is_configured(described: Document) -> None:
    for _, operation in operations(described):
        for parameter in operation.get("parameters", ()):
            if parameter["name"] == "limit":
                assert parameter["schema"]["maximum"] == PAGE_SIZE_MAX


def test_no_parameter_is_null(described: Document) -> None:
    """One that may be left out is left out; nobody can send a null in a query or a header."""
    for _, operation in operations(described):
        for parameter in operation.get("parameters", ()):
            assert "null" not in str(parameter["schema"]), parameter["name"]


def faults(described: Document, schema: Document, value: Any) -> Iterator[Any]:
    whole = {**schema, "components": described["components"]}
    return Draft202012Validator(
        whole, format_checker=Draft202012Validator.FORMAT_CHECKER
    ).iter_errors(value)
