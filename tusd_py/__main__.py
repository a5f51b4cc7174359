"""The command `tusd-py`: it finds the verb and imports that one only."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from tusd_py.cli import CommandError, Exit, sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {
    "serve": "run the upload server",
    "work": "run a worker that analyses finished videos",
    "demo": "run server, worker and client, cut the connection, resume, show the plates",
    "upload": "upload videos, resuming by itself, and print their plates",
    "analyze": "print the plates of local videos or images, without a server",
    "evaluate": "measure how well plates are read, by labelled videos and images",
    "models": "fetch the weights of the plate reader alpr, checked, or list them",
    "doctor": "find what is amiss between UPLOAD_DIR and Redis, and mend it",
}
# They lie flat beside this package, where a script's or the current directory may shadow them.
BESIDE = ("settings", "storage", "worker", "processing")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        # A file's name may be no text at all; stderr writes such names like this already.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _refuse_shadows()
        if not words or words[0] not in VERBS:
            _explain(words)
            return Exit.USAGE
        return int(import_module(f"tusd_py.cli.{words[0]}").main(words[1:]))
    except CommandError as error:
        return _say(str(error), error.code)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; Python's last flush must not complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        return _say(sentence(error), Exit.FAILED)


def _say(text: str, code: Exit) -> Exit:
    for line in text.splitlines():
        print(f"tusd-py: {line}", file=sys.stderr)  # noqa: T201  a command speaks
    return code


def _explain(words: Sequence[str]) -> None:
    """Answer --help and --version, or refuse a verb that does not exist."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="tusd-py",
        usage="tusd-py VERB [OPTION...]",
        description="A resumable upload server that reads the licence plates of finished videos.",
        epilog=f"verbs (tusd-py VERB --help explains each):\n{verbs}\n\n"
        "exit codes: 0 done, 1 the work failed, 2 usage or a bad setting, 3 could not start,\n"
        "4 the server cannot be reached, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("verb", metavar="VERB", choices=list(VERBS), help="what to do")
    parser.parse_args(words)


def _version() -> str:
    try:
        return f"tusd-py {metadata.version('tusd-py')}"
    except metadata.PackageNotFoundError:
        return "tusd-py (run from its source, not installed)"


def _refuse_shadows() -> None:
    """Refuse modules that do not lie beside this package, naming both paths."""
    root = Path(__file__).resolve().parent.parent
    for name in BESIDE:
        found = find_spec(name)
        origin = None if found is None else found.origin
        ours = (root / f"{name}.py", root / name / "__init__.py")
        if origin is None or Path(origin).resolve() not in ours:
            raise CommandError(
                f"{name!r} must be the one in {root}, but Python finds "
                f"{'none' if origin is None else origin}. Start tusd-py from another directory, "
                "or take that file out of PYTHONPATH.",
                Exit.STARTUP,
            )


if __name__ == "__main__":
    sys.exit(main())
