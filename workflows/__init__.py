"""Temporal workflows and activities: what holds a session together across crashes."""
