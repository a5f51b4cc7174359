"""What Schemathesis has to be told to send bodies of tus (schemathesis.toml)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import schemathesis

if TYPE_CHECKING:
    from schemathesis.transport import SerializationContext


@schemathesis.serializer("application/offset+octet-stream")
def as_it_is(context: SerializationContext, value: Any) -> bytes:
    """Send bytes as they are, and all else as its text."""
    del context
    return value if isinstance(value, bytes) else str(value).encode()
