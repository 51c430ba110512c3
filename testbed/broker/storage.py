"""The storage of a new node: formatted by Kafka's own tool once for each version of Kafka, and copied from then on.

The tool is a Java process that takes about as long as the start of the node. What it writes is the same for every node
but for a few lines of text.
"""

import fcntl
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from testbed.broker.jars import jars, java
from testbed.patience import seconds

FORMAT_SECONDS = 60.0
CHECKPOINT = "bootstrap.checkpoint"
"""The first records of the cluster's metadata: the version of each feature."""

TEMPLATE = """\
process.roles=broker,controller
node.id=0
controller.quorum.voters=0@127.0.0.1:1
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1
log.dirs={folder}/data
"""


def new_id() -> str:
    """For a cluster or a folder, as Kafka spells them: without a first "-", which would be taken for an option."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def lay_out(folder: Path, node: int, cluster_id: str) -> None:
    """Write what ``kafka-storage format`` writes into the data folder of a node.

    Raises:
        RuntimeError: Kafka could not format the one that is copied; the message holds what it printed.
    """
    folder.mkdir()
    shutil.copyfile(_checkpoint(), folder / CHECKPOINT)
    lines = [f"cluster.id={cluster_id}", f"directory.id={new_id()}", f"node.id={node}", "version=1", ""]
    (folder / "meta.properties").write_text("\n".join(lines))


def _checkpoint() -> Path:
    path = jars().with_suffix(".checkpoint")
    if path.exists():
        return path
    # The second one waits here, and then finds it.
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as fresh:
                _format(Path(fresh))
                Path(fresh, "data", CHECKPOINT).rename(path)
    return path


def _format(folder: Path) -> None:
    properties = folder / "node.properties"
    properties.write_text(TEMPLATE.format(folder=folder))
    command = java("kafka.tools.StorageTool", "format", f"--cluster-id={new_id()}", "-c", properties)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(FORMAT_SECONDS))
    if result.returncode:
        raise RuntimeError(f"Kafka's storage could not be formatted:\n{result.stdout}{result.stderr}")
