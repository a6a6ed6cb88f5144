"""Harnesses that are programs of others: confined processes that plan, while the turn asks, records and acts."""
