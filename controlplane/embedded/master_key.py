"""The first master key, made by `bulkhead up` where none was given; kept in ``DATA/master-key``."""

import os
from pathlib import Path

from controlplane.embedded.process import write_whole
from controlplane.vault.keyring import MasterKeySettings, new_master_key

READERS = ("api", "egress", "memory")
"""The parts that get to know where the master keys are; nobody else seals or opens a secret, or knows one again."""

VARIABLES = ("BULKHEAD_MASTER_KEY", "BULKHEAD_MASTER_KEY_FILE")


def provision(settings: MasterKeySettings, data_dir: Path) -> None:
    """Make a master key unless the settings name one, or one was made before."""
    path = data_dir / "master-key"
    if settings.master_key is None and settings.master_key_file is None and not path.exists():
        write_whole(path, new_master_key() + "\n", mode=0o600)
        for written in (path, data_dir):  # what is sealed with it is on the disk at once, so it must be there before
            descriptor = os.open(written, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def environment(part: str) -> dict[str, str]:
    """Return what a part is told of the master keys."""
    if part not in READERS:
        return {}
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}
