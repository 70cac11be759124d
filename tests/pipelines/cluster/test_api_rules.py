"""The rules that requests and answers are held against: what is wrong has to be found, by either source."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.kfp_api.definitions import from_package, from_swagger, swagger_file
from tests.kfp_api.filters import WrongFilterError, passes, read_filter
from tests.kfp_api.server import serve, validators
from tests.kfp_api.validation import Request, Validator

RUN = {
    "display_name": "name",
    "experiment_id": "1",
    "pipeline_version_reference": {"pipeline_id": "1", "pipeline_version_id": "2"},
    "runtime_config": {"parameters": {"preset": "x", "number": 3, "list": [1, None]}},
}
SCHEDULE = {"display_name": "name", "max_concurrency": "1", "mode": "ENABLE", "no_catchup": True}


def _post(path="/apis/v2beta1/runs", body=RUN, content_type="application/json", **others):
    return Request(method="POST", path=path, body=body, content_type=content_type, **others)


def _get(path, **query):
    return Request(method="GET", path=f"/apis/v2beta1/{path}", query=list(query.items()))


def _schedule(**changes):
    return _post("/apis/v2beta1/recurringruns", {**SCHEDULE, **changes})


@pytest.fixture(params=range(2), ids=["kfp-server-api", "swagger"])
def validator(request):
    found = validators()
    if request.param >= len(found):
        pytest.skip("KFP's own definition is not beside this checkout")
    return found[request.param]


@pytest.mark.parametrize(
    "wanted",
    [
        _post(),
        _schedule(),
        _get("healthz"),
        _get("runs", page_token="", page_size="20", sort_by="created_at desc", filter="{}"),
        Request(method="DELETE", path="/apis/v2beta1/recurringruns/1", query=[("propagation_policy", "ORPHAN")]),
        _post("/apis/v2beta1/recurringruns/1:enable", None),
        _post(
            "/apis/v2beta1/pipelines/upload_version",
            None,
            "multipart/form-data; boundary=x",
            files={"uploadfile": b"x"},
            query=[("pipelineid", "1")],
        ),
    ],
    ids=lambda wanted: f"{wanted.method} {wanted.path}",
)
def test_what_the_definition_has_is_right(validator, wanted):
    assert validator.request_problems(wanted) == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (_get("run"), "no operation GET /apis/v2beta1/run"),
        (Request(method="PUT", path="/apis/v2beta1/runs"), "no operation PUT"),
        (Request(method="GET", path="/apis/v1beta1/runs"), "no operation"),
        (_post("/apis/v2beta1/runs/1:start", None), "no operation"),
        (_get("runs", name="x"), "unknown query parameter 'name'"),
        (_get("runs", page_size="many"), "expected an integer"),
        (Request(method="GET", path="/apis/v2beta1/runs", query=[("filter", "a"), ("filter", "b")]), "twice"),
        (_get("runs/%20"), "empty part"),
        (_post(body=None), "missing required body parameter"),
        (_post(body=[RUN]), "expected an object"),
        (_post(body={**RUN, "name": "x"}), "unknown field 'name'"),
        (_post(body={**RUN, "displayName": "x"}), "unknown field 'displayName'"),
        (_post(body={**RUN, "runtime_config": {"params": {}}}), "unknown field 'params'"),
        (_post(body={**RUN, "display_name": 3}), "expected a string"),
        (_post(body={**RUN, "runtime_config": {"parameters": [1]}}), "expected an object"),
        (_post(body={**RUN, "state": "Succeeded"}), "expected one of"),
        (_post(body={**RUN, "created_at": "yesterday"}), "expected a time"),
        (_post(content_type="text/plain"), "in place of application/json"),
        (_schedule(no_catchup="true"), "expected a boolean"),
        (_schedule(max_concurrency=1), "expected a string"),
        (_schedule(mode="ON"), "expected one of"),
        (_schedule(trigger={"cron_schedule": {"cron": ["0 0 * * * *"]}}), "expected a string"),
        (_schedule(trigger={"cron": "0 0 * * * *"}), "unknown field 'cron'"),
        (Request(method="GET", path="/apis/v2beta1/healthz", body={}, content_type="application/json"), "a body where"),
        (
            _post("/apis/v2beta1/pipelines/upload_version", None, "multipart/form-data"),
            "missing required formData parameter 'uploadfile'",
        ),
        (
            _post("/apis/v2beta1/pipelines/upload", None, "multipart/form-data", files={"uploadfile": b"", "x": b""}),
            "unknown part 'x'",
        ),
        (
            _post("/apis/v2beta1/pipelines/upload", {}, "application/json", files={"uploadfile": b""}),
            "in place of multipart/form-data",
        ),
    ],
)
def test_what_the_definition_lacks_is_wrong(validator, wrong, named):
    problems = validator.request_problems(wrong)
    assert any(named in problem for problem in problems), problems


@pytest.mark.skipif(swagger_file() is None, reason="KFP's own definition is not beside this checkout")
def test_only_the_definition_itself_knows_enums_of_the_query_digits_and_what_only_a_server_sets():
    validator = Validator(from_swagger(swagger_file()), "swagger")
    path = "/apis/v2beta1/recurringruns/1"
    delete = Request(method="DELETE", path=path, query=[("propagation_policy", "orphan")])
    for wrong, named in (
        (delete, "expected one of"),
        (_schedule(max_concurrency="one"), "expected digits"),
        (_schedule(namespace="x"), "set by the server only"),
    ):
        problems = validator.request_problems(wrong)
        assert any(named in problem for problem in problems), problems


@pytest.mark.skipif(swagger_file() is None, reason="KFP's own definition is not beside this checkout")
def test_both_sources_have_the_same_operations_and_fields():
    package, swagger = from_package(), from_swagger(swagger_file())
    assert _operations(package) == _operations(swagger)
    fields = {name.lower(): set(model.get("properties", {})) for name, model in swagger["definitions"].items()}
    for name, model in package["definitions"].items():
        # Bodies of multipart requests have a model in the package only, and `Any` another one.
        if not name.startswith(("InlineObject", "ProtobufAny")):
            assert set(model.get("properties", {})) == fields[name.lower()], name


def _operations(document):
    # The package is a release newer than the definition's file, and lacks one parameter of uploads.
    return {
        (verb, path): {p["name"] for p in operation.get("parameters", [])} - {"code_source_url"}
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    }


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"run_id": 3}, "expected a string"),
        ({"id": "3"}, "unknown field 'id'"),
        ({"state": "DONE"}, "expected one of"),
        ({"run_details": {"task_details": [{"name": "x"}]}}, "unknown field 'name'"),
        ([], "expected an object"),
    ],
)
def test_a_wrong_answer_is_found_too(validator, body, named):
    problems = validator.response_problems(_get("runs/1"), 200, body)
    assert any(named in problem for problem in problems), problems
    assert validator.response_problems(_get("runs/1"), 404, {"code": "5"}) != []
    assert validator.response_problems(_get("runs/1"), 404, {"code": 5, "message": "x", "details": []}) == []


def _predicate(**fields):
    return json.dumps({"predicates": [fields]})


@pytest.mark.parametrize(
    "text",
    [
        _predicate(operation="EQUALS", key="display_name", string_value="a"),
        # As kfp.Client writes it: the number of the operation, and names as JSON has them in protocol buffers.
        _predicate(operation=1, key="display_name", stringValue="a"),
        _predicate(operation="IN", key="name", string_values={"values": ["a", "b"]}),
        _predicate(operation="IS_SUBSTRING", key="name", string_value="A"),
    ],
)
def test_a_filter_is_applied(validator, text):
    predicates = read_filter(text, validator, {"display_name": "display_name", "name": "display_name"})
    assert passes({"display_name": "a"}, predicates)
    assert not passes({"display_name": "c"}, predicates)


@pytest.mark.parametrize(
    "text",
    [
        "display_name=a",
        _predicate(operation="EQUAL", key="display_name", string_value="a"),
        _predicate(operation=4, key="display_name", string_value="a"),
        _predicate(operation="EQUALS", key="colour", string_value="a"),
        _predicate(operation="EQUALS", key="display_name", value="a"),
        _predicate(operation="EQUALS", key="display_name"),
        _predicate(operation="EQUALS", key="display_name", string_values={"values": ["a"]}),
        _predicate(operation="IN", key="display_name", string_value="a"),
        json.dumps({"predicate": []}),
    ],
)
def test_a_wrong_filter_is_refused(validator, text):
    with pytest.raises(WrongFilterError):
        read_filter(text, validator, {"display_name": "display_name"})


def test_the_server_refuses_a_wrong_request_and_remembers_it():
    with serve() as server:
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"{server.url}/apis/v2beta1/runs?colour=red")
        assert any("unknown query parameter 'colour'" in violation for violation in server.violations)
