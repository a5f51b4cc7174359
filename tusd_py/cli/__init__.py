"""What every verb shares: exit codes, errors as sentences, and options made from `Settings`.

A verb is a module here with `main(arguments) -> exit code`; `tusd_py.__main__` imports only the one
that was asked for, and a verb imports what is heavy inside its functions.
"""

from __future__ import annotations

import argparse
import signal
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import FrameType

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from settings import Settings


class Exit(IntEnum):
    """Name the exit codes; the help of each verb lists those it uses."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STARTUP = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


class CommandError(Exception):
    """End a verb with one sentence for people and an exit code."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.code = code


class Stopped(BaseException):
    """Tell that a signal asked to stop; like KeyboardInterrupt, no handler of errors catches it."""


def stop_on(*numbers: signal.Signals) -> None:
    """Raise Stopped in the main thread at the first of these signals, and ignore later ones."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        # Whatever follows must not interrupt the cleaning up.
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    for number in numbers:
        signal.signal(number, stop)


def new_parser(verb: str, what: str, codes: Mapping[Exit, str]) -> argparse.ArgumentParser:
    """Return a parser whose help ends with the exit codes."""
    lines = "\n".join(f"  {code:<4d} {meaning}" for code, meaning in codes.items())
    return argparse.ArgumentParser(
        prog=f"tusd-py {verb}",
        description=what,
        epilog=f"exit codes:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add an option for each named setting, or for all: its description is the setting's own."""
    from settings import Settings  # noqa: PLC0415  pydantic takes a quarter of a second

    group = parser.add_argument_group(
        "settings", "Each is also read from the environment or .env; the option wins."
    )
    for name in names or Settings.model_fields:
        field = Settings.model_fields[name]
        more: dict[str, Any] = {"metavar": _metavar(field)}
        if field.annotation is bool:
            more = {"action": argparse.BooleanOptionalAction}
        group.add_argument(
            _flag(name),
            dest=name,
            default=argparse.SUPPRESS,
            help=_help(name, field),
            **more,
        )


def need_redis_url(settings: Settings) -> None:
    """Refuse a REDIS_URL that is no address; raise CommandError."""
    from storage.redis_address import Address  # noqa: PLC0415  redis takes a moment

    try:
        Address.parse(settings.redis_url or "redis://")
    except ValueError as error:
        raise CommandError(f"REDIS_URL: {error}", Exit.USAGE) from error


def read_settings(options: argparse.Namespace) -> Settings:
    """Build the settings from the options given, the environment, `.env` and the defaults.

    Raises:
        CommandError: a value is not what was expected.
    """
    from pydantic import ValidationError  # noqa: PLC0415
    from pydantic_settings import SettingsError  # noqa: PLC0415

    from settings import Settings  # noqa: PLC0415

    fields = Settings.model_fields
    given = {name: value for name, value in vars(options).items() if name in fields}
    # An empty option means what an unset variable means, like an empty variable does.
    given = {name: fields[name].default if value == "" else value for name, value in given.items()}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise CommandError(_sentences(error, given, fields), Exit.USAGE) from error
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        raise CommandError(f".env cannot be read: {error}", Exit.USAGE) from error


def sentence(error: OSError) -> str:
    """Say what the system refused, and of which file."""
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename else said


def one_of(names: Sequence[str]) -> str:
    """List names for a sentence."""
    return ", ".join(names)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    named = {int: "N", float: "SECONDS", Path: "PATH"}
    return next((named[kind] for kind in _kinds(field) if kind in named), "TEXT")


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    """Return the types a field takes, None left out."""
    members = get_args(field.annotation) or (field.annotation,)
    return tuple(member for member in members if member is not type(None))


def _help(name: str, field: FieldInfo) -> str:
    default = "unset" if field.default is None else str(field.default)
    text = f"{field.description} [{name.upper()}, default {default}]"
    return text.replace("%", "%%")


def _sentences(
    error: ValidationError, given: Mapping[str, Any], fields: Mapping[str, FieldInfo]
) -> str:
    return "\n".join(_of_detail(detail, given, fields) for detail in error.errors())


def _of_detail(
    detail: ErrorDetails, given: Mapping[str, Any], fields: Mapping[str, FieldInfo]
) -> str:
    # A literal, a union or a path adds its own parts to the place: the first one is the setting.
    name = str(detail["loc"][0]).lower() if detail["loc"] else ""
    cause = detail.get("ctx", {}).get("error")
    if name not in fields:
        return str(cause or detail["msg"])
    shown = _flag(name) if name in given else name.upper()
    if cause is not None:
        return f"{shown}: {cause}"
    return f"{shown}: expected {_expected(fields[name])}, got {detail['input']!r}"


def _expected(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return f"one of {one_of(get_args(field.annotation))}"
    named = {int: "an integer", float: "a number", bool: "true or false", Path: "a path"}
    kind = next((named[kind] for kind in _kinds(field) if kind in named), "a text")
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(rule, attribute)}"
        for rule in field.metadata
        for attribute, sign in signs.items()
        if getattr(rule, attribute, None) is not None
    ]
    return " ".join([kind, " and ".join(bounds)]).strip()
