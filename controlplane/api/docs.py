"""The OpenAPI document, and a page that shows it without loading anything from elsewhere."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse

from controlplane.api.exchange import BodyReader, open_exchange
from controlplane.wire.common import ErrorEnvelope

INTRODUCTION = """Durable agent sessions over the wire format of Anthropic's Managed Agents beta: the public SDKs
drive this API when their base URL points here. Send an API key as `x-api-key` or `Authorization: Bearer`. Every POST
takes an `Idempotency-Key`: the same key and body get the first answer again, another body gets a 409. Every answer
has a `request-id`."""

router = APIRouter(include_in_schema=False)

_IDEMPOTENCY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Makes a repeated request answer as the first one did.",
}
_REFERENCE = "#/components/schemas/{model}"
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
summary{cursor:pointer;padding:.3rem 0} code,pre{font:13px/1.5 ui-monospace,monospace}
pre{background:#f3f5f8;padding:.8rem;overflow:auto;border-radius:6px} table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top;border-bottom:1px solid #e3e7ec}
b.get{color:#0a6c3a} b.post{color:#0b5cad} b.delete{color:#b02a1b} details details{margin-left:1rem}
h2{margin-top:2rem;border-bottom:2px solid #e3e7ec}"""


def complete_openapi(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Give ``app`` an OpenAPI document that also says what FastAPI does not see: bodies, keys and errors."""

    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, routes)
        return app.openapi_schema

    app.openapi = openapi


@router.get("/docs")
async def docs_page(request: Request) -> HTMLResponse:
    """Show the API."""
    document: dict[str, Any] = request.app.openapi()
    return HTMLResponse("".join(_page(document)))


def _document(app: FastAPI, routes: Sequence[APIRoute]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    bodies = {route.unique_id: model for route in routes if (model := _body_model(route))}
    _, definitions = models_json_schema(
        [(model, "validation") for model in {*bodies.values(), ErrorEnvelope}], ref_template=_REFERENCE
    )
    schemas.update(definitions.get("$defs", {}))
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    for route in routes:
        for method in route.methods or ():
            _complete(
                document["paths"][route.path_format][method.lower()], route, method, bodies.get(route.unique_id)
            )
    return document


def _complete(operation: dict[str, Any], route: APIRoute, method: str, body: type[BaseModel] | None) -> None:
    operation["responses"].pop("422", None)
    if any(dependency.call is open_exchange for dependency in route.dependant.dependencies):
        operation["security"] = [{"key": []}, {"bearer": []}]
        operation["responses"]["default"] = {
            "description": "What went wrong.",
            "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model="ErrorEnvelope")}}},
        }
        if method == "POST":
            operation.setdefault("parameters", []).append(_IDEMPOTENCY_PARAMETER)
    if body is not None:
        schema = {"$ref": _REFERENCE.format(model=body.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}


def _body_model(route: APIRoute) -> type[BaseModel] | None:
    calls = (dependency.call for dependency in route.dependant.dependencies)
    return next((call.model for call in calls if isinstance(call, BodyReader)), None)


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    yield f"<h1>{title}</h1><p>{escape(document['info']['description'])}</p>"
    yield "<p>The same for programs: <a href=/openapi.json>/openapi.json</a></p>"
    by_tag: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            by_tag.setdefault(operation.get("tags", ["other"])[0], []).append(_operation(path, method, operation))
    for tag, operations in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>{''.join(operations)}"
    yield "<h2>schemas</h2>"
    for name, schema in sorted(document["components"]["schemas"].items()):
        text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
        yield f"<details id={escape(name)}><summary><code>{escape(name)}</code></summary><pre>{text}</pre></details>"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    head = f"<b class={method}>{method.upper()}</b> <code>{escape(path)}</code> {escape(operation['summary'])}"
    parameters = "".join(_parameter(parameter) for parameter in operation.get("parameters", []))
    table = f"<table><tr><th>parameter<th>in<th>type<th>{parameters}</table>" if parameters else ""
    body = _content("body", operation.get("requestBody", {}))
    answers = "".join(_content(f"answer {code}", answer) for code, answer in operation["responses"].items())
    about = escape(operation.get("description", ""))
    return f"<details><summary>{head}</summary><p>{about}</p>{table}{body}{answers}</details>"


def _parameter(parameter: Mapping[str, Any]) -> str:
    required = " (required)" if parameter.get("required") else ""
    cells = (parameter["name"] + required, parameter["in"], _type_name(parameter["schema"]))
    about = escape(parameter.get("description", ""))
    return f"<tr>{''.join(f'<td><code>{escape(cell)}</code>' for cell in cells)}<td>{about}"


def _content(what: str, part: Mapping[str, Any]) -> str:
    shown = (f"{escape(kind)}: {_linked(media.get('schema', {}))}" for kind, media in part.get("content", {}).items())
    return "".join(f"<p>{escape(what)} – {one}</p>" for one in shown)


def _linked(schema: Mapping[str, Any]) -> str:
    name = escape(_type_name(schema))
    return f"<a href=#{name}><code>{name}</code></a>" if "$ref" in schema else f"<code>{name}</code>"


def _type_name(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(_type_name(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"{_type_name(schema.get('items', {}))}[]"
    return " | ".join(map(str, schema["enum"])) if "enum" in schema else str(schema.get("type", "any"))
