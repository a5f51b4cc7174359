"""tuspyserver as its README has it, for uvicorn; it lives in an environment of its own."""

from __future__ import annotations

import os

# Neither is installed where the types are checked.
from fastapi import FastAPI  # type: ignore[import-not-found]
from tuspyserver import create_tus_router  # type: ignore[import-not-found]


def create() -> FastAPI:
    """Return an app that stores into UPLOADS."""
    app = FastAPI()
    app.include_router(create_tus_router(prefix="files", files_dir=os.environ["UPLOADS"]))
    return app
