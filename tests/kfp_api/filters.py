"""The filters of listing calls: JSON of the message `Filter`, as protocol buffers read it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.kfp_api.validation import Validator

_COMPARE = {
    "EQUALS": lambda value, wanted: value == wanted,
    "NOT_EQUALS": lambda value, wanted: value != wanted,
    "GREATER_THAN": lambda value, wanted: value > wanted,
    "GREATER_THAN_EQUALS": lambda value, wanted: value >= wanted,
    "LESS_THAN": lambda value, wanted: value < wanted,
    "LESS_THAN_EQUALS": lambda value, wanted: value <= wanted,
    "IS_SUBSTRING": lambda value, wanted: str(wanted).lower() in str(value).lower(),
    "IN": lambda value, wanted: value in wanted["values"],
}


class WrongFilterError(Exception):
    """A filter that the server would refuse."""


def read_filter(text: str, validator: Validator, fields: Mapping[str, str]) -> list[tuple[str, str, Any]]:
    """Read a filter.

    Args:
        text: The query parameter.
        validator: Knows the messages `Filter` and `Predicate`.
        fields: The fields of the resource that may be filtered by, and what they are called in it.

    Returns:
        Field, operation and value of each predicate.

    Raises:
        WrongFilterError: It is none.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise WrongFilterError(f"the filter is no JSON: {error}") from error
    operations = validator.definition("v2beta1PredicateOperation")["enum"]
    content = _proto_names(content)
    for predicate in content.get("predicates", []) if isinstance(content, dict) else []:
        # An enumeration may be written as its number, in the JSON of protocol buffers.
        if isinstance(predicate.get("operation"), int) and predicate["operation"] in _NUMBERS:
            predicate["operation"] = _NUMBERS[predicate["operation"]]
    problems = validator.value_problems(content, validator.definition("v2beta1Filter"), "filter")
    if problems:
        raise WrongFilterError("; ".join(problems))
    read = []
    for predicate in content["predicates"]:
        values = [name for name in predicate if name not in ("operation", "key")]
        key, operation = predicate.get("key"), predicate.get("operation")
        if operation not in operations or operation not in _COMPARE or len(values) != 1:
            raise WrongFilterError(f"expected one known operation and one value, got {predicate}")
        if key not in fields:
            raise WrongFilterError(f"no support for filtering on unrecognized field {key!r}")
        is_list = values[0].endswith("_values")
        if is_list != (operation == "IN"):
            raise WrongFilterError(f"{operation} does not go with {values[0]}")
        read.append((fields[key], operation, predicate[values[0]]))
    return read


def passes(resource: Mapping[str, Any], predicates: list[tuple[str, str, Any]]) -> bool:
    """Whether a resource is let through by all predicates."""
    return all(_COMPARE[operation](resource.get(name, ""), wanted) for name, operation, wanted in predicates)


#: The numbers of filter.proto; 4 is not given.
_NUMBERS = {
    1: "EQUALS",
    2: "NOT_EQUALS",
    3: "GREATER_THAN",
    5: "GREATER_THAN_EQUALS",
    6: "LESS_THAN",
    7: "LESS_THAN_EQUALS",
    8: "IN",
    9: "IS_SUBSTRING",
}


def _proto_names(value: Any) -> Any:
    """The same with the fields named as in the proto file: its JSON may have `stringValue` for `string_value`."""
    if isinstance(value, dict):
        return {
            re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower(): _proto_names(inner) for name, inner in value.items()
        }
    return [_proto_names(item) for item in value] if isinstance(value, list) else value
