"""/v1/deployments/{id}/trigger: deliveries from outside, signed with a secret that only the sender and we know."""

from datetime import UTC, datetime

import structlog
from fastapi import APIRouter, Request
from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from controlplane.api import bodies
from controlplane.api.exchange import json_response
from controlplane.api.parts import Parts, parts_of
from controlplane.checks import refused
from controlplane.deployments import signatures, templates
from controlplane.deployments.firing import Firing
from controlplane.deployments.signatures import Delivery, SignatureError
from controlplane.errors import AuthenticationError, ConflictError
from controlplane.ids import derived_id, shown_id
from controlplane.store import deployment_runs, deployments, triggers
from controlplane.store.deployment_runs import NewRun
from controlplane.store.pool import ALL_WORKSPACES
from controlplane.store.triggers import Trigger
from controlplane.wire.deployments import TriggerAnswer

router = APIRouter(prefix="/v1/deployments/{deployment_id}/trigger", tags=["deployments"])

_log = structlog.get_logger(__name__)

_LONGEST_PAYLOAD = 1024 * 1024
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_BODY = {
    "requestBody": {"required": True, "content": {kind: {"schema": {"type": "object"}} for kind in (_JSON, _FORM)}}
}


@router.post("", response_model=TriggerAnswer, openapi_extra=_BODY)
async def trigger_deployment(request: Request, deployment_id: str) -> Response:
    """Start a run with a delivery as GitHub, Slack or Standard Webhooks sign it; no API key is wanted.

    A delivery that comes again starts nothing again. The `ping` of GitHub and the `url_verification` of Slack start
    nothing.
    """
    parts = parts_of(request)
    body = await bodies.read(request, limit=_LONGEST_PAYLOAD)
    trigger, delivery = await _signed(parts, request, deployment_id, body)
    payload = _payload(trigger, body, request.headers.get("content-type", _JSON))
    if trigger.type == "github" and request.headers.get("x-github-event") == "ping":
        return json_response(TriggerAnswer(run_id=None, duplicate=False))
    if trigger.type == "slack" and isinstance(payload, dict) and payload.get("type") == "url_verification":
        return JSONResponse({"challenge": payload.get("challenge")})
    return json_response(await _started(parts, trigger, delivery, payload))


def _payload(trigger: Trigger, body: bytes, content_type: str) -> JsonValue:
    """Return what a delivery says: JSON, or the fields of a form, of which GitHub has one with JSON in it."""
    if content_type.partition(";")[0].strip().lower() != _FORM:
        return bodies.parse(body, content_type)
    fields = bodies.parse_form(body)
    if trigger.type != "github":
        return fields
    payload = fields.get("payload")
    if not isinstance(payload, str):
        raise refused("payload", "missing, or there more than once", next_step="send the JSON as the field payload")
    return bodies.parse(payload.encode(), _JSON)


async def _signed(parts: Parts, request: Request, deployment_id: str, body: bytes) -> tuple[Trigger, Delivery]:
    async with parts.database.transaction(ALL_WORKSPACES) as connection:
        trigger = await triggers.find(connection, deployment_id, keyring=parts.keyring)
    if trigger is None:
        raise _refused(deployment_id, "there is no such deployment, or it has no trigger")
    secret = trigger.secret.get_secret_value()
    try:
        return trigger, signatures.verify(trigger.type, secret, request.headers, body, datetime.now(UTC))
    except SignatureError as error:
        raise _refused(deployment_id, str(error)) from error


def _refused(deployment_id: str, cause: str) -> AuthenticationError:
    """Note why, and return the error that says no more than who knows no secret may know."""
    _log.warning("delivery_refused", deployment_id=shown_id(deployment_id), cause=cause)
    return AuthenticationError(
        "the delivery is not signed with the secret of this deployment's trigger, or not just now",
        code="bad_signature",
        field="signature",
        next_step="check the secret and the type of the trigger, and the sender's clock; the log has the cause",
    )


async def _started(parts: Parts, trigger: Trigger, delivery: Delivery, payload: JsonValue) -> TriggerAnswer:
    async with parts.database.transaction(trigger.workspace_id) as connection:
        record = await deployments.lock(connection, trigger.deployment_id)
        known = await deployment_runs.of_delivery(
            connection, record.id, delivery_id=delivery.id, signature=delivery.digest
        )
        if known is not None:
            return TriggerAnswer(run_id=known.id, duplicate=True)
        if record.archived_at is not None or record.paused_reason is not None:
            raise ConflictError(
                "the deployment is paused or archived",
                code="deployment_paused",
                field="deployment_id",
                next_step="unpause it, then have the sender deliver again",
            )
        new = NewRun(
            id=derived_id("drun", record.id, "delivery", delivery.id),
            kind="trigger",
            delivery_id=delivery.id,
            signature=delivery.digest,
            message=_message(trigger, payload),
        )
        firing = Firing(connection, record, now=datetime.now(UTC))
        await firing.in_line(new)
    for session_id, events in firing.queued:
        parts.submitter.submitted(trigger.workspace_id, session_id, events)
    return TriggerAnswer(run_id=new.id, duplicate=False)


def _message(trigger: Trigger, payload: JsonValue) -> str:
    text = templates.parse(trigger.template).render(payload)
    return text if text.strip() else "(The delivery has nothing of what the trigger's template names.)"
