"""A page that shows OpenAPI documents; it is whole, and loads nothing from anywhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tusd_py.openapi.parts import Part

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; }
body { margin: 2rem auto; padding: 0 1rem; }
code, pre, .method { font-family: ui-monospace, monospace; font-size: .9em; }
details { border: 1px solid var(--line); border-radius: 6px; }
details { margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.method { font-weight: bold; display: inline-block; min-width: 4.5em; text-transform: uppercase; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem; }
th, td { border-top: 1px solid var(--line); }
td:first-child { white-space: nowrap; }
p { white-space: pre-line; }
"""


def page_of(documents: dict[str, Part]) -> str:
    """Write a page about documents by their addresses; what all refer to is in the first."""
    first = next(iter(documents.values()))
    title, version = escape(first["info"]["title"]), escape(first["info"]["version"])
    body = "".join(_about(*one) + "".join(_sections(one[1])) for one in documents.items())
    schemas = "".join(_schema(*one) for one in first["components"]["schemas"].items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title} {version}</h1>{body}<h2>schemas</h2>{schemas}</body></html>\n"
    )


def _about(address: str, document: Part) -> str:
    link = f'<a href="{escape(address)}">OpenAPI {document["openapi"]}</a>'
    return f"<p>{escape(document['info']['description'])}</p><p>As {link}.</p>"


def _sections(document: Part) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>"
        yield from (
            _operation(*one) for one in _operations(document) if tag["name"] in one[-1]["tags"]
        )


def _operations(document: Part) -> Iterator[tuple[str, str, list[Part], Part]]:
    for path, item in document["paths"].items():
        shared = item.get("parameters", [])
        for method, one in item.items():
            if method != "parameters":
                yield path, method, [*shared, *one.get("parameters", [])], one


def _operation(path: str, method: str, parameters: list[Part], one: Part) -> str:
    head = f'<span class="method">{method}</span> <code>{escape(path)}</code> '
    parts = [f"<p>{escape(one.get('description', ''))}</p>"]
    if parameters:
        rows = (
            (_name(one), one["in"], _kind(one["schema"]), one["description"]) for one in parameters
        )
        parts.append(_table(("parameter", "in", "type", "meaning"), rows))
    for media, content in one.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body: <code>{escape(media)}</code></p>{_properties(content['schema'])}")
    answers = (
        (
            status,
            said["description"],
            ", ".join(_contents(said)),
            ", ".join(said.get("headers", ())),
        )
        for status, said in one["responses"].items()
    )
    parts.append(_table(("answer", "meaning", "body", "headers"), answers))
    return f"<details><summary>{head}{escape(one['summary'])}</summary>{''.join(parts)}</details>"


def _name(one: Part) -> str:
    return f"{one['name']} (required)" if one["required"] else str(one["name"])


def _contents(said: Part) -> Iterator[str]:
    for media, content in said.get("content", {}).items():
        kind = _kind(content["schema"])
        yield f"{media}: {kind}" if kind else media


def _schema(name: str, one: Part) -> str:
    described = f"<p>{escape(one.get('description', ''))}</p>"
    if "enum" in one:
        described += f"<p><code>{escape(_kind(one))}</code></p>"
    summary = f"<summary><code>{escape(name)}</code></summary>"
    return f'<details id="{escape(name)}">{summary}{described}{_properties(one)}</details>'


def _properties(one: Part) -> str:
    rows = (
        (name, _kind(kind), kind.get("description", ""), _example(kind))
        for name, kind in one.get("properties", {}).items()
    )
    return _table(("field", "type", "meaning", "such as"), rows) if "properties" in one else ""


def _example(kind: Part) -> str:
    examples = [one for one in kind.get("examples", ()) if one is not None]
    return str(examples[0]) if examples else ""


def _kind(kind: Part) -> str:
    """Say in a word or two what a value is."""
    if "$ref" in kind:
        return str(kind["$ref"]).rpartition("/")[2]
    if "anyOf" in kind:
        return " or ".join(_kind(one) for one in kind["anyOf"])
    if "enum" in kind:
        return " or ".join(str(one) for one in kind["enum"])
    if "items" in kind:
        return f"list of {_kind(kind['items'])}"
    named: Any = kind.get("format") or kind.get("type") or ""
    return " or ".join(named) if isinstance(named, list) else str(named)


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
