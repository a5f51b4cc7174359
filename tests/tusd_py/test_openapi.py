"""The descriptions are whole: every address of the app, and what the program really makes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from starlette.routing import Route

from processing.result import Analysis, Box, Plate, VideoInfo
from settings import Settings
from tusd_py.app import create_app
from tusd_py.openapi import UPLOADS, Offered, document, uploads_document
from tusd_py.openapi.result import JobResult

ROOT = Path(__file__).parents[2]
WHOLE = Offered("/files", 1000, listing=True, termination=True, download=True)


def test_every_address_of_the_app_is_described_with_each_of_its_methods(tmp_path: Path) -> None:
    settings = Settings(upload_dir=tmp_path, redis_url="redis://nowhere", admin_token="x" * 32)
    paths = document(WHOLE)["paths"] | uploads_document(WHOLE)["paths"]
    described = {path.rstrip("/"): item for path, item in paths.items()}
    for route in create_app(settings).routes:
        # What goes on for ever is told in words.
        if isinstance(route, Route) and route.include_in_schema:
            item = described[route.path.replace(":path", "").rstrip("/")]
            methods = {method.lower() for method in route.methods or ()} - {"head"}
            assert methods <= item.keys(), route.path


def test_each_document_has_the_version_of_the_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert document(WHOLE)["info"]["version"] == project["version"]
    assert uploads_document(WHOLE)["info"]["version"] == project["version"]


def test_the_document_about_jobs_names_the_one_about_uploads_and_holds_none_of_it() -> None:
    jobs, uploads = document(WHOLE), uploads_document(WHOLE)
    assert jobs["externalDocs"]["url"] == UPLOADS
    assert f"/{UPLOADS}" in jobs["info"]["description"]
    assert not jobs["paths"].keys() & uploads["paths"].keys()
    assert {"/files/", "/files/{upload_id}"} < uploads["paths"].keys()


def test_every_reference_is_to_a_schema_that_is_there_and_each_operation_has_its_own_id() -> None:
    ids: list[str] = []

    def walk(part: Any, schemas: Any) -> None:
        if isinstance(part, list):
            for one in part:
                walk(one, schemas)
        if isinstance(part, dict):
            ids.extend([part["operationId"]] if "responses" in part else [])
            if "$ref" in part:
                assert part["$ref"].rpartition("/")[2] in schemas
            for one in part.values():
                walk(one, schemas)

    for whole in (document(WHOLE), uploads_document(WHOLE)):
        walk(whole, whole["components"]["schemas"])
    assert len(ids) == len(set(ids)) > 10


def test_each_field_of_the_job_is_described_and_has_an_example() -> None:
    fields = document(WHOLE)["components"]["schemas"]["JobResource"]["properties"]
    assert list(fields)[:4] == ["job_id", "status", "progress", "message"]
    for name, field in fields.items():
        assert field["description"], name
        assert "examples" in field or "$ref" in str(field), name


def test_an_analysis_is_what_the_description_of_results_says() -> None:
    plate = Plate("AB12CDE", 0.9, 1.0, 2.0, 3, Box(1, 2, 3, 4))
    found = Analysis((plate,), 10, 5, 3, 2.5, VideoInfo(640, 480, 25.0, 10), "rapidocr", "text")
    said = {"job_id": "x", "finished_at": 1.5, **found.to_json()}
    result = JobResult.model_validate(said)
    assert result.model_extra == {}
    assert result.model_dump(exclude_unset=True) == said
