"""What descriptions of operations are put together from (OpenAPI 3.1)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Part = dict[str, Any]

UUID = {
    "type": "string",
    "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    "examples": ["550e8400-e29b-41d4-a716-446655440000"],
}
JSON = "application/json"
_NOTHING: Mapping[str, str] = MappingProxyType({})
LATER = {"Retry-After": "Seconds after which to try again."}
PROBLEM = "application/problem+json"


def schema(name: str) -> Part:
    """Refer to a model."""
    return {"$ref": f"#/components/schemas/{name}"}


def parameter(name: str, where: str, what: str, kind: Part, *, required: bool = False) -> Part:
    """Describe a parameter in the `query`, the `path` or a `header`."""
    return {"name": name, "in": where, "description": what, "required": required, "schema": kind}


def answer(
    what: str, kind: Part | None = None, media: str = JSON, headers: Mapping[str, str] = _NOTHING
) -> Part:
    """Describe an answer with a body of this kind; its headers by name and meaning."""
    described: Part = {"description": what}
    if kind is not None:
        described["content"] = {media: {"schema": kind}}
    described["headers"] = {
        name: {"description": meaning, "schema": {"type": "string"}}
        for name, meaning in {"X-Request-ID": "The name of the request.", **headers}.items()
    }
    return described


def problem(what: str, headers: Mapping[str, str] = _NOTHING) -> Part:
    """Describe a refusal (RFC 9457)."""
    return answer(what, schema("Problem"), PROBLEM, headers)


def text(what: str, headers: Mapping[str, str] = _NOTHING) -> Part:
    """Describe a refusal in a sentence."""
    return answer(what, {"type": "string"}, "text/plain", headers)


def operation(tag: str, name: str, what: str, answers: dict[str, Part], **more: Any) -> Part:
    """Describe an operation: its name, its first sentence, and what it answers."""
    summary, _, rest = what.partition("\n")
    described = {"tags": [tag], "operationId": name, "summary": summary, **more}
    if rest.strip():
        described["description"] = rest.strip()
    return {**described, "responses": answers}
