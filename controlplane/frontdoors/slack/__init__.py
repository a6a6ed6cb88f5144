"""Slack as a front door: Bolt for what comes in (signed HTTP or Socket Mode), the Web API for what goes out."""
