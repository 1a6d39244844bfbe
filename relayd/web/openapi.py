"""The description of the HTTP API (OpenAPI 3.0), made of the catalogue and the answers' types."""

from __future__ import annotations

import types
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from relayd import __version__
from relayd.ops import answers
from relayd.web.catalogue import API, CALLS, Call, Parameter

_PLAIN = {
    str: {"type": "string"},
    float: {"type": "number"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
}
_TOKEN = "token"
_ERROR = {
    "description": "why there is no answer",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_PROBLEM = {  # RFC 9457
    "type": "object",
    "required": ["title", "status", "detail", "error"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "error": {"type": "string", "description": "as detail: the answer of relayctl --json"},
    },
}


def described() -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(API + call.path, {})[call.method.lower()] = _operation(call, schemas)
    paths |= _domains()
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "relayd",
            "version": f"{answers.VERSION}",
            "description": f"What relayctl --json prints, of relayd {__version__}.",
        },
        "security": [{_TOKEN: []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {_TOKEN: {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(call: Call, schemas: dict[str, Any]) -> dict[str, Any]:
    answer = _schema(call.answer, schemas)
    if call.many:
        listed = {call.many: {"type": "array", "items": answer}}
        answer = {"type": "object", "required": [call.many], "properties": listed}
    found: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.about,
        "description": f"For the role {call.role} and those above it.",
        "responses": {
            "200": {"description": call.about, "content": {"application/json": {"schema": answer}}},
            "default": _ERROR,
        },
    }
    parameters = [_parameter(each) for each in call.parameters] if call.method == "GET" else []
    if "{id}" in call.path:
        parameters.append(_in_path("id"))
    if parameters:
        found["parameters"] = parameters
    if call.method == "POST":
        properties = {each.name: _field(each) for each in call.parameters}
        body = {"type": "object", "properties": properties, "additionalProperties": False}
        found["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return found


_DONE = {
    "complaint": {"type": "string"},
    "warnings": {"type": "array", "items": {"type": "string"}},
}
_TARGETS = {"type": "array", "items": {"type": "string"}}
_JSON, _TEXT = "application/json", "text/plain"


def _domains() -> dict[str, dict[str, Any]]:
    """What relayd.web.forwards answers."""

    def content(schema: dict[str, Any], kind: str = _JSON) -> dict[str, Any]:
        return {"content": {kind: {"schema": schema}}}

    def told(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - schemas
        return content({"type": "object", "required": [*fields], "properties": fields})

    def path(noun: str, read: dict[str, Any], done: dict[str, Any], **body: Any) -> dict[str, Any]:  # noqa: ANN401
        found = {"get": _of_domain(noun, noun, "viewer", read)}
        if body:
            found["put"] = _of_domain(f"put_{noun}", f"write {noun}", "operator", done)
            found["put"]["responses"]["201"] = {**done, "description": "it is there from now on"}
            found["put"]["requestBody"] = {**body, "required": True}
            found["delete"] = _of_domain(f"delete_{noun}", f"take {noun} away", "operator", done)
        return found

    targets = told(targets=_TARGETS)
    lists = {"type": "object", "additionalProperties": _TARGETS}
    whole = content({"type": "string"}, _TEXT)
    place = f"{API}/domains/{{domain}}"
    one = path("domain_forward", targets, told(**_DONE, targets=_TARGETS), **targets)
    for each in one.values():
        each["parameters"].append(_in_path("name"))
    return {
        f"{place}/forwards": path("domain_forwards", told(forwards=lists), {}),
        f"{place}/forwards/{{name}}": one,
        f"{place}/rules": path("domain_rules", whole, told(**_DONE), **whole),
    }


def _of_domain(name: str, about: str, role: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": about.replace("_", " "),
        "description": f"For the role {role} with a token of the domain, or admin with any.",
        "parameters": [_in_path("domain")],
        "responses": {"200": {**answer, "description": "it is so"}, "default": _ERROR},
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(each: Parameter) -> dict[str, Any]:
    said = {"name": each.name, "in": "query", "required": False, "schema": {"type": each.kind}}
    return {**said, "description": each.about} if each.about else said


def _field(each: Parameter) -> dict[str, Any]:
    found: dict[str, Any] = {"type": each.kind}
    if each.kind == "array":
        found["items"] = {"type": "string"}
    return {**found, "description": each.about} if each.about else found


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - a type
    """A type as JSON Schema; those of answers have a place of their own."""
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if is_typeddict(kind):
        if kind.__name__ not in schemas:
            schemas[kind.__name__] = {}  # it may be in itself
            schemas[kind.__name__] = _object(kind, schemas)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        return {"type": "array", "items": _schema(inner[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1], schemas)}
    if origin is types.UnionType:  # of one type and None
        found = _schema(inner[0], schemas)
        return (
            {"allOf": [found], "nullable": True} if "$ref" in found else found | {"nullable": True}
        )
    return {}  # Any


def _object(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    hints = get_type_hints(kind, include_extras=True)
    required = [name for name, hint in hints.items() if get_origin(hint) is not NotRequired]
    properties = {
        name: _schema(get_args(hint)[0] if get_origin(hint) is NotRequired else hint, schemas)
        for name, hint in hints.items()
    }
    return {
        "type": "object",
        "description": (kind.__doc__ or "").replace("`", ""),
        "required": required,
        "properties": properties,
    }
