"""What the API is, as OpenAPI 2.0 documents from two independent sources."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import kfp_server_api

Document = dict[str, Any]
SWAGGER = Path("shared") / "kfp" / "kfp_api_v2beta1.swagger.json"
_SCALARS = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "format": "date-time"},
    "object": {"type": "object"},
}


def swagger_file() -> Path | None:
    """KFP's own definition, which lies beside some checkouts, or None."""
    for folder in Path(__file__).resolve().parents:
        if (folder / SWAGGER).is_file():
            return folder / SWAGGER
    return None


def from_swagger(file: Path) -> Document:
    """KFP's own definition."""
    return json.loads(file.read_text(encoding="utf-8"))


def from_package() -> Document:
    """The definition that the package kfp-server-api was generated from, read back from what it says of itself."""
    models = {name: model for name, model in vars(kfp_server_api.models).items() if hasattr(model, "openapi_types")}
    paths: dict[str, dict[str, Any]] = {}
    for name, service in vars(kfp_server_api).items():
        if name.endswith("ServiceApi"):
            for method_name, method in inspect.getmembers(service, inspect.isfunction):
                if method_name.endswith("_with_http_info"):
                    path, verb, operation = _operation(method)
                    paths.setdefault(path, {})[verb] = operation
    return {"paths": paths, "definitions": {name: _model(model) for name, model in models.items()}}


def _operation(method: Any) -> tuple[str, str, dict[str, Any]]:
    source, text = inspect.getsource(method), inspect.getdoc(method)
    path, verb = re.search(r"call_api\(\s*'([^']+)', '([A-Z]+)'", source).groups()
    types = dict(re.findall(r":type (\S+): (\S+)", text))
    required = set(re.findall(r":param (\S+):.*\(required\)", text))

    def parameters(place: str, pattern: str) -> list[dict[str, Any]]:
        return [
            {"name": wire, "in": place, "required": argument in required, **_schema(types[argument])}
            for wire, argument in re.findall(pattern, source)
        ]

    found = parameters("path", r"path_params\['([^']+)'\] = local_var_params\['([^']+)'\]")
    found += parameters("query", r"query_params\.append\(\('([^']+)', local_var_params\['([^']+)'\]")
    for argument in re.findall(r"body_params = local_var_params\['([^']+)'\]", source):
        schema = _schema(types[argument])
        found.append({"name": argument, "in": "body", "required": argument in required, "schema": schema})
    for argument in re.findall(r"local_var_files\['([^']+)'\]", source):
        found.append({"name": argument, "in": "formData", "required": argument in required, "type": "file"})
    answer = _schema(re.search(r"response_type='([^']+)'", source)[1])
    responses = {"200": {"schema": answer}, "default": {"schema": _schema("GoogleRpcStatus")}}
    return path, verb.lower(), {"parameters": found, "responses": responses}


def _model(model: Any) -> dict[str, Any]:
    if getattr(model, "allowable_values", None):
        return {"type": "string", "enum": list(model.allowable_values)}
    properties = {wire: _schema(model.openapi_types[name]) for name, wire in model.attribute_map.items()}
    if model.__name__ == "ProtobufAny":
        # Whatever was put into the `Any` stands beside its type.
        return {"type": "object", "properties": {**properties, "@type": {"type": "string"}}, "additionalProperties": {}}
    if model.__name__ == "V2beta1MetadataValue":
        # Any JSON at all, for which the package has no word but `object`; the recorded values are texts.
        properties["value"] = {}
    return {"type": "object", "properties": properties}


def _schema(type_name: str) -> dict[str, Any]:
    if type_name in _SCALARS:
        return dict(_SCALARS[type_name])
    if match := re.fullmatch(r"list\[(.*)\]", type_name):
        return {"type": "array", "items": _schema(match[1])}
    if match := re.fullmatch(r"dict\(str, (.*)\)", type_name):
        # In a mapping, the package says `object` of any value at all.
        return {"type": "object", "additionalProperties": {} if match[1] == "object" else _schema(match[1])}
    return {"$ref": f"#/definitions/{type_name}"}
