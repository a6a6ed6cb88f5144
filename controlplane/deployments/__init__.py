"""Agents that run on time: what a deployment is, its firings, and the runs that come of them."""
