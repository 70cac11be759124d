"""Requests and answers against an OpenAPI 2.0 document. What the document does not name is an error."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.kfp_api.definitions import Document


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = ""
    body: Any = None
    """Parsed JSON, or None without a body."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The parts of a multipart body."""


class Validator:
    """Holds requests and answers against a document.

    Args:
        document: The definition.
        origin: Where it is from, for messages.
    """

    def __init__(self, document: Document, origin: str) -> None:
        self._document, self._origin = document, origin
        self._routes = [
            (verb.upper(), template, re.compile(re.sub(r"\\\{[^}]*\\\}", "([^/]+?)", re.escape(template))))
            for template, verbs in document["paths"].items()
            for verb in verbs
        ]

    def route(self, request: Request) -> str | None:
        """The path template that a request is for, or None. A path without a variable wins over one with."""
        found = [
            template
            for verb, template, pattern in self._routes
            if verb == request.method and pattern.fullmatch(request.path)
        ]
        return min(found, key=lambda template: template.count("{"), default=None)

    def request_problems(self, request: Request) -> list[str]:
        """All that is wrong with a request."""
        template = self.route(request)
        if template is None:
            return self._told([f"no operation {request.method} {request.path}"])
        parameters = self._document["paths"][template][request.method.lower()].get("parameters", [])
        places = {
            place: {p["name"]: p for p in parameters if p["in"] == place} for place in ("query", "formData", "body")
        }
        problems = []
        if not all(unquote(part).strip() for part in request.path.strip("/").split("/")):
            problems.append(f"empty part in {request.path}")
        for name, text in request.query:
            if name not in places["query"]:
                problems.append(f"unknown query parameter {name!r}")
            else:
                problems += _query_problems(name, text, places["query"][name])
        names = [name for name, _ in request.query]
        problems += [f"query parameter {name!r} twice" for name in set(names) if names.count(name) > 1]
        sent = {"query": names, "formData": request.files, "body": [] if request.body is None else places["body"]}
        problems += [
            f"missing required {place} parameter {name!r}"
            for place, known in places.items()
            for name, parameter in known.items()
            if parameter.get("required") and name not in sent[place]
        ]
        problems += [f"unknown part {name!r}" for name in request.files if name not in places["formData"]]
        problems += self._body_problems(request, places)
        return self._told(problems)

    def response_problems(self, request: Request, status: int, body: Any) -> list[str]:
        """All that is wrong with the answer to a request that has a route."""
        template = self.route(request)
        assert template is not None, "only what is asked rightly is answered"
        responses = self._document["paths"][template][request.method.lower()]["responses"]
        schema = responses["200" if status == 200 else "default"]["schema"]
        return self._told(self.value_problems(body, schema, "answer"))

    def value_problems(self, value: Any, schema: dict[str, Any], where: str, *, is_request: bool = False) -> list[str]:
        """All that keeps a value from being what a schema says.

        Args:
            value: Parsed JSON.
            schema: Part of the document.
            where: What the value is called in messages.
            is_request: Whether fields that only a server sets are errors.
        """
        if "$ref" in schema:
            schema = self._document["definitions"][schema["$ref"].removeprefix("#/definitions/")]
        if is_request and schema.get("readOnly"):
            return [f"{where} is set by the server only"]
        kind = schema.get("type")
        if kind == "array":
            if not isinstance(value, list):
                return [f"{where}: expected a list, got {value!r}"]
            return [
                problem
                for number, item in enumerate(value)
                for problem in self.value_problems(item, schema["items"], f"{where}[{number}]", is_request=is_request)
            ]
        if kind == "object" or "properties" in schema:
            return self._object_problems(value, schema, where, is_request)
        return _scalar_problems(value, schema, where) if kind else []

    def definition(self, name: str) -> dict[str, Any]:
        """A schema by its name, whichever way its first letter is written."""
        definitions = self._document["definitions"]
        return definitions[next(known for known in definitions if known.lower() == name.lower())]

    def _object_problems(self, value: Any, schema: dict[str, Any], where: str, is_request: bool) -> list[str]:
        if not isinstance(value, dict):
            return [f"{where}: expected an object, got {value!r}"]
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        problems = [
            f"{where}: missing required field {name!r}" for name in schema.get("required", []) if name not in value
        ]
        for name, inner in value.items():
            if name in properties:
                problems += self.value_problems(inner, properties[name], f"{where}.{name}", is_request=is_request)
            elif others is not None:
                problems += self.value_problems(inner, others, f"{where}.{name}", is_request=is_request)
            elif properties:
                problems.append(f"{where}: unknown field {name!r}")
        return problems

    def _body_problems(self, request: Request, places: dict[str, dict[str, Any]]) -> list[str]:
        if places["formData"]:
            is_right = request.content_type.startswith("multipart/form-data")
            return [] if is_right else [f"content type {request.content_type!r} in place of multipart/form-data"]
        if request.body is None:
            return []
        if not places["body"]:
            return ["a body where none belongs"]
        problems = []
        if not request.content_type.startswith("application/json"):
            problems.append(f"content type {request.content_type!r} in place of application/json")
        schema = next(iter(places["body"].values()))["schema"]
        return problems + self.value_problems(request.body, schema, "body", is_request=True)

    def _told(self, problems: list[str]) -> list[str]:
        return [f"{self._origin}: {problem}" for problem in problems]


def _query_problems(name: str, text: str, schema: dict[str, Any]) -> list[str]:
    """A query parameter is text; it has to say a value of its type."""
    where = f"query parameter {name!r}"
    if schema["type"] == "integer":
        return [] if re.fullmatch(r"-?\d+", text) else [f"{where}: expected an integer, got {text!r}"]
    if schema["type"] == "boolean":
        return [] if text in ("true", "false") else [f"{where}: expected a boolean, got {text!r}"]
    return _scalar_problems(text, schema, where)


def _scalar_problems(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    kind = schema["type"]
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{where}: expected a {kind}, got {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: expected one of {schema['enum']}, got {value!r}"]
    form = schema.get("format")
    if kind == "string" and form == "int64" and not re.fullmatch(r"-?\d+", value):
        return [f"{where}: expected digits, got {value!r}"]
    if form == "date-time" and not _is_time(value):
        return [f"{where}: expected a time, got {value!r}"]
    return []


def _is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
