"""client.js as an npm package: what `npm pack` makes of dispatcher/web/page, for Node and for TypeScript."""

import json
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest

import dispatcher
from testbed.tools import TYPESCRIPT, lacking, need

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "dispatcher" / "web" / "page"

CONSUMER = """
import { parsePosition, subscribe, type Gap, type KafkaRecord, type Stream, type StreamState } from "kafka-dispatcher";

const stream: Stream = subscribe("https://example.org/stream/", {
  transport: "auto",
  topics: ["assets"],
  since: new Date(0),
  storageKey: "position",
  headers: { Authorization: "Bearer token" },
  credentials: "include",
  scope: "topic",
  observe: true,
  last: 20,
  onRecord: (record: KafkaRecord) => record.value?.length ?? record.value_base64,
  onState: async ({ state, reason, retry_ms }: StreamState) => [state, reason, retry_ms?.toFixed()],
  onGap: (gap: Gap) => gap.to - gap.from,
});
const position: string = stream.position;
export const offset: bigint | undefined = parsePosition(position).get("assets:0");
stream.close();
subscribe(new URL("https://example.org"), { position, since: "earliest", topics: "assets" });
subscribe("/", { ack: "auto", window: 5, onRecord: async ({ value }) => value });

// @ts-expect-error no such way to acknowledge
subscribe("/", { ack: "manual" });
// @ts-expect-error no such transport
subscribe("/", { transport: "polling" });
// @ts-expect-error no such option
subscribe("/", { onrecord: () => {} });
// @ts-expect-error it is read only
stream.position = "assets:0=1";
// @ts-expect-error no such state
subscribe("/", { onState: ({ state }) => state === "streaming" });
"""


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """A command in a folder; nothing is asked of npm but what it is for."""
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What npm packs."""
    need("npm")
    packed = run(tmp_path, "npm", "pack", "--json", str(PAGE))
    assert packed.returncode == 0, packed.stderr
    return tmp_path / str(json.loads(packed.stdout)[0]["filename"])


def install(package: Path) -> Path:
    """The folder of a program that has it installed."""
    folder = package.parent
    installed = run(folder, "npm", "install", "--offline", "--no-audit", "--no-fund", str(package))
    assert installed.returncode == 0, installed.stderr
    return folder


def test_it_holds_what_it_says(package: Path) -> None:
    """It has the module, its types and a README, not the page's files, in the dispatcher's version."""
    with tarfile.open(package) as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert names == {"package.json", "README.md", "client.js", "client.d.ts"}
    manifest = json.loads((PAGE / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (manifest["version"], manifest["license"]) == (dispatcher.__version__, project["license"])
    assert "dependencies" not in manifest


def test_node_imports_it_by_its_name(package: Path) -> None:
    """The exports lead to the module."""
    folder = install(package)
    script = 'import { subscribe } from "kafka-dispatcher"; console.log(typeof subscribe);'
    done = run(folder, need("node"), "--input-type=module", "--eval", script)
    assert (done.stdout, done.stderr) == ("function\n", "")


@pytest.mark.parametrize("resolution", ["nodenext", "bundler"])
def test_typescript_takes_its_types(package: Path, resolution: str) -> None:
    """They work strictly for Node and bundlers, and wrong uses are refused."""
    folder = install(package)
    (folder / "use.ts").write_text(CONSUMER)
    shutil.copy(PAGE / "client.d.ts", folder)
    module = "esnext" if resolution == "bundler" else resolution
    options = ["--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", module]
    compiler = ["npx", "--yes", "-p", TYPESCRIPT, "tsc"]
    if run(folder, *compiler, "--version").returncode != 0:
        lacking(TYPESCRIPT)
    done = run(folder, *compiler, "--noEmit", *options, "--moduleResolution", resolution, "use.ts", "client.d.ts")
    assert (done.returncode, done.stdout) == (0, "")
