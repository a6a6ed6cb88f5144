"""The secrets that deliveries to deployments are signed with: wrapped by a master key, and never shown."""

from pydantic import BaseModel, ConfigDict, SecretStr

from controlplane.store.deployments import TriggerType
from controlplane.store.pool import Connection, one
from controlplane.vault.cipher import Place
from controlplane.vault.keyring import Keyring, Wrapped


class Trigger(BaseModel):
    """What lets somebody outside start a deployment's run."""

    model_config = ConfigDict(frozen=True)

    deployment_id: str
    workspace_id: str
    type: TriggerType
    template: str
    secret: SecretStr


async def put(connection: Connection, trigger: Trigger, *, keyring: Keyring) -> None:
    """Give a deployment a trigger, in place of the one that it has."""
    place = secret_place(trigger.workspace_id, trigger.deployment_id)
    wrapped = keyring.wrap(trigger.secret.get_secret_value().encode(), place)
    await connection.execute(
        "INSERT INTO deployment_triggers (deployment_id, workspace_id, type, template, master_key_id, wrapped_secret)"
        " VALUES (%(id)s, %(workspace_id)s, %(type)s, %(template)s, %(master_key_id)s, %(wrapped)s)"
        " ON CONFLICT (deployment_id) DO UPDATE SET type = excluded.type, template = excluded.template,"
        " master_key_id = excluded.master_key_id, wrapped_secret = excluded.wrapped_secret",
        {
            "id": trigger.deployment_id,
            "workspace_id": trigger.workspace_id,
            "type": trigger.type,
            "template": trigger.template,
            **wrapped.model_dump(),
        },
    )


async def change_template(connection: Connection, deployment_id: str, template: str) -> None:
    """Give a trigger another template; its secret stays."""
    await connection.execute(
        "UPDATE deployment_triggers SET template = %s WHERE deployment_id = %s", (template, deployment_id)
    )


async def remove(connection: Connection, deployment_id: str) -> None:
    """Take a deployment's trigger away, with its secret."""
    await connection.execute("DELETE FROM deployment_triggers WHERE deployment_id = %s", (deployment_id,))


async def find(connection: Connection, deployment_id: str, *, keyring: Keyring) -> Trigger | None:
    """Return the trigger of a deployment, if it has one; raises `UnavailableError` without its master key."""
    row = await one(
        connection,
        "SELECT deployment_id, workspace_id, type, template, master_key_id, wrapped_secret AS wrapped"
        " FROM deployment_triggers WHERE deployment_id = %(id)s",
        {"id": deployment_id},
    )
    if row is None:
        return None
    secret = keyring.unwrap(Wrapped.model_validate(row), secret_place(row["workspace_id"], deployment_id))
    return Trigger.model_validate({**row, "secret": SecretStr(secret.decode())})


def secret_place(workspace_id: str, deployment_id: str) -> Place:
    """What a trigger's wrapped secret belongs to."""
    return ("trigger secret", workspace_id, deployment_id)
