"""The command line: one module per noun."""

from controlplane.cli.app import main

__all__ = ["main"]
