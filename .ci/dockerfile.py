"""Run the Dockerfile's steps on this machine, below an empty directory, and then its program.

For machines without a container engine. What it does not prove: the base image itself, and the
steps that need a file system of their own (they begin with `useradd` and are named when left
out). ENV of the build stage is not applied, so that pip may use its cache.
"""

# ruff: noqa: INP001, S603, T201  a script is in no package, runs our own commands and talks to people

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# The image's own directories; everything else in a command is the machine's.
OWN = re.compile(r"(?<![\w.-])/(opt|src|data)\b")
OPTION = re.compile(r"^--\S+\s+")
DEADLINE = 60


@dataclass
class Image:
    """What the instructions said so far."""

    root: Path
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop: signal.Signals = signal.SIGTERM

    def place(self, text: str) -> str:
        """Move the image's directories below the root."""
        return OWN.sub(lambda found: f"{self.root}{found.group()}", text)

    @property
    def here(self) -> Path:
        return self.root / self.workdir.lstrip("/")


def instructions(text: str) -> list[tuple[str, str]]:
    """Split into (instruction, rest), comments removed and lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    found = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word.upper(), rest) for word, rest in found]


def main(root: Path, tree: Path) -> None:
    root.mkdir(parents=True)
    image = Image(root)
    for word, rest in instructions((tree / "Dockerfile").read_text()):
        carry_out(image, word, rest, tree)
    serve(image)


def carry_out(image: Image, word: str, rest: str, tree: Path) -> None:
    match word:
        case "FROM":
            image.workdir, image.env = "/", {}
        case "WORKDIR":
            image.workdir = rest
            image.here.mkdir(parents=True, exist_ok=True)
        case "COPY":
            copy(image, rest, tree)
        case "RUN":
            run(image, rest)
        case _:
            remember(image, word, rest)


def remember(image: Image, word: str, rest: str) -> None:
    match word:
        case "ENV":
            image.env |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        case "ENTRYPOINT":
            image.entrypoint = json.loads(rest)
        case "CMD":
            image.command = json.loads(rest)
        case "HEALTHCHECK":
            image.health = json.loads(rest.partition("CMD ")[2])
        case "STOPSIGNAL":
            image.stop = signal.Signals[rest]
        case "USER" | "EXPOSE" | "VOLUME":
            pass
        case _:
            sys.exit(f".ci/dockerfile.py does not know the instruction {word}")


def copy(image: Image, rest: str, tree: Path) -> None:
    if rest.startswith("--from"):
        # Both stages lie below the same root.
        source, target = OPTION.sub("", rest).split()
        if source != target or not Path(image.place(source)).exists():
            sys.exit(f"COPY {rest}: it has to be there, under the same name")
        return
    *sources, target = rest.split()
    for source in sources:
        check_that_docker_sees(source, tree)
        into = image.here / target
        if (tree / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(tree / source, into, ignore=ignored)
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / source, into)


def check_that_docker_sees(source: str, tree: Path) -> None:
    allowed = (tree / ".dockerignore").read_text().splitlines()
    if f"!{source.rstrip('/')}" not in allowed:
        sys.exit(f"COPY {source}: .dockerignore leaves it out")


def run(image: Image, command: str) -> None:
    if command.startswith("useradd"):
        print(f"not run without a container: {command}")
        return
    print(f"RUN {command}", flush=True)
    subprocess.run(
        ["/bin/sh", "-ec", image.place(command)],
        cwd=image.here,
        env={**os.environ, "PIP_QUIET": "1"},
        check=True,
    )


def serve(image: Image) -> None:
    """Start the image's command, ask its health check, stop it by its signal."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
        **{name: image.place(value) for name, value in image.env.items()},
        "PATH": image.place(image.env["PATH"]).replace("$PATH", os.environ["PATH"]),
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
    }
    # Looked up in the image's PATH, as a container does.
    command = [shutil.which(image.entrypoint[0], path=environment["PATH"]) or "", *image.command]
    print(f"starting {shlex.join(image.entrypoint + image.command)}", flush=True)
    with subprocess.Popen(command, cwd=image.here, env=environment) as process:
        try:
            wait_until_healthy(image, process, environment)
        except BaseException:
            process.kill()
            raise
        process.send_signal(image.stop)
        status = process.wait(DEADLINE)
    if status not in {0, -image.stop}:
        sys.exit(f"stopped by {image.stop.name}, it ended with {status}")
    if left := list((image.root / "data").rglob("redis.pid")):
        os.kill(int(left[0].read_text()), signal.SIGTERM)
        sys.exit("stopped, it left its embedded Redis running")
    print("healthy, and stopped when told to")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until_healthy(
    image: Image, process: subprocess.Popen[bytes], environment: dict[str, str]
) -> None:
    # As the machine's PATH would find another python first.
    check = [shutil.which(image.health[0], path=environment["PATH"]) or "", *image.health[1:]]
    end = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < end:
        done = subprocess.run(check, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.2)
    sys.exit(f"it did not become healthy (its exit status: {process.poll()}): {done.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path.cwd())
