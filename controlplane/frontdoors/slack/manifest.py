"""The manifest of the Slack app, for either way of being told things."""

from typing import Any

SCOPES = (
    "app_mentions:read",
    "channels:history",
    "chat:write",
    "commands",
    "files:read",
    "files:write",
    "groups:history",
    "im:history",
    "reactions:read",
    "reactions:write",
    "users:read",
)
"""What the bot may do, and nothing that the front door does not do."""

_EVENTS = ("app_mention", "message.channels", "message.groups", "message.im", "reaction_added")


def manifest(name: str, *, request_url: str | None) -> dict[str, Any]:
    """Return the manifest; ``request_url``: where Slack reaches us, None for Socket Mode."""
    at = {"request_url": request_url} if request_url else {}
    command: dict[str, Any] = {
        "command": "/bulkhead",
        "description": "How to talk with agents here",
        "should_escape": False,
        **({"url": request_url} if request_url else {}),
    }
    return {
        "_metadata": {"major_version": 1, "minor_version": 1},
        "display_information": {"name": name, "description": "Talk with your agents as with colleagues"},
        "features": {
            "app_home": {"messages_tab_enabled": True, "messages_tab_read_only_enabled": False},
            "bot_user": {"display_name": name, "always_online": True},
            "slash_commands": [command],
        },
        "oauth_config": {"scopes": {"bot": list(SCOPES)}},
        "settings": {
            "event_subscriptions": {**at, "bot_events": list(_EVENTS)},
            "interactivity": {"is_enabled": True, **at},
            "org_deploy_enabled": False,
            "socket_mode_enabled": request_url is None,
            "token_rotation_enabled": False,
        },
    }
