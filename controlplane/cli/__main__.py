"""``python -m controlplane.cli`` is ``bulkhead``."""

from controlplane.cli.app import main

main()
