"""Licence plates in videos and still images; imports nothing of ours."""

from __future__ import annotations

import os

# ONNX Runtime reports to its maker unless it is told not to before it is first imported. What is
# in a user's videos, and how often, is nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
