"""An image with one more layer, as an archive that holds nothing else: for nodes that have the image it stands on."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from tests.support.chart import call

_OCI = "application/vnd.oci.image"


def write_layer(archive: Path, name: str, *, base: str, files: dict[str, str]) -> None:
    """Write an OCI archive of ``name``: ``base``, which Docker has, with these files (path → content) put into it."""
    [found] = json.loads(call("docker", "image", "inspect", base).stdout)
    layer = _tar({path.lstrip("/"): content.encode() for path, content in files.items()})
    below: list[str] = found["RootFS"]["Layers"]
    config = _json({
        "architecture": found["Architecture"],
        "os": found["Os"],
        "config": found["Config"],
        "rootfs": {"type": "layers", "diff_ids": [*below, _digest(layer)]},
    })  # fmt: skip
    # Layers are named as they are unpacked: what the nodes have of these is not looked at again.
    missing = [{"mediaType": f"{_OCI}.layer.v1.tar", "digest": each, "size": 0} for each in below]
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _described(config, "config.v1+json"),
        "layers": [*missing, _described(layer, "layer.v1.tar")],
    })  # fmt: skip
    named = {"io.containerd.image.name": f"docker.io/library/{name}"}
    top = {**_described(manifest, "manifest.v1+json"), "annotations": named}
    blobs = {f"blobs/sha256/{_digest(each).removeprefix('sha256:')}": each for each in (layer, config, manifest)}
    index = {"schemaVersion": 2, "manifests": [top]}
    archive.write_bytes(
        _tar({"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), **blobs, "index.json": _json(index)})
    )


def _described(blob: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
