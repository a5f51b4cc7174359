"""Read a form (multipart/form-data, RFC 7578) piece by piece; its file goes on as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from processing.container import HEAD_SIZE
from processing.options import OPTIONS, InvalidOption, Options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from storage.interfaces import Buffer, Sink

FORM_TYPE = "multipart/form-data"
#: Bytes that a form may have beside its file: delimiters, header fields, other parts.
BESIDES = 64 * 1024
# Bytes of an option, and characters of a file's name or type.
_VALUE_MOST = 256
_NAME_MOST = 255
# RFC 7578, section 4.7: any other is deprecated, and would have to be decoded.
_PLAIN = frozenset(("", "7bit", "8bit", "binary"))


class InvalidForm(ValueError):
    """A form is not as it has to be; the message says what was expected and what came."""


class FileTooLarge(InvalidForm):
    """The file of a form is larger than it may be."""


def parse_boundary(content_type: str) -> bytes:
    """Return what separates the parts of a form; raise InvalidForm."""
    kind, parameters = parse_options_header(content_type)
    if kind != FORM_TYPE.encode():
        raise InvalidForm(f"content-type: expected {FORM_TYPE}, got {content_type[:_NAME_MOST]!a}")
    boundary = parameters.get(b"boundary", b"")
    # RFC 2046, section 5.1.1.
    if not 1 <= len(boundary) <= 70:  # noqa: PLR2004
        came = boundary[:_NAME_MOST].decode("latin-1")
        raise InvalidForm(f"content-type: expected a boundary of 1 to 70 characters, got {came!a}")
    return boundary


class Form:
    """Take the body of a form as it comes (storage.interfaces.Sink).

    The bytes of its file, at most `most`, wait in `head` until there is a `sink`, then go there.
    `received` counts them, `passed` those that went there, `offset` all that came. `described` is
    what is told of the file: `filename`, `filetype` and the options.
    """

    def __init__(self, boundary: bytes, *, most: int) -> None:
        self.described: dict[str, str] = {}
        self.head = bytearray()
        self.sink: Sink | None = None
        self.received = self.passed = self.offset = 0
        #: Whether the file has begun, is here to its end, and whether the form is.
        self.has_begun = self.has_file = self.ended = False
        self._most = most
        self._delimiter = b"\r\n--" + boundary
        self._parser = MultipartParser(boundary, {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add,
            "on_part_end": self._end_part,
            "on_end": self._end,
        })  # fmt: skip
        # What may be the beginning of the first delimiter; it need no line break before it.
        self._preamble: bytes | None = b"\r\n"
        self._name, self._value = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._part = ""
        self._option: bytearray | None = None
        self._pieces: list[Buffer] = []

    @property
    def is_telling(self) -> bool:
        """Tell whether enough is here to see what the file is, or that there is none."""
        return len(self.head) >= HEAD_SIZE or self.has_file or self.ended

    def file_end(self, length: int) -> int:
        """Return how large the file is if it is the last of a form of so many bytes."""
        return length - (self.offset - self.received) - len(self._delimiter) - len(b"--\r\n")

    def take(self, buffers: Sequence[bytes]) -> bool:
        """Take nothing: to read a form takes a thread."""
        del buffers
        return False

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Read what came next; raise InvalidForm, and what the sink raises."""
        for buffer in buffers:
            self.offset += len(buffer)
            self._read(bytes(buffer))
            if self.offset - self.received > BESIDES:
                raise InvalidForm(f"expected a form of {BESIDES} bytes beside its file, got more")
        self.pass_on()

    def pass_on(self) -> None:
        """Give the sink, if there is one, what waits for it."""
        pieces, self._pieces = self._pieces, []
        if self.sink is None:
            self.head += b"".join(pieces)
            return
        if self.head:
            pieces, self.head = [bytes(self.head), *pieces], bytearray()
        if pieces:
            self.sink.write(pieces)
            self.passed += sum(len(piece) for piece in pieces)

    def _read(self, data: bytes) -> None:
        try:
            self._parser.write(data if self._preamble is None else self._begin(data))
        except FormParserError as error:
            raise InvalidForm(f"expected a form, got what is none: {error}") from None

    def _begin(self, data: bytes) -> bytes:
        """Return what comes from the first delimiter on."""
        data = (self._preamble or b"") + data
        at = data.find(self._delimiter)
        self._preamble = data[1 - len(self._delimiter) :] if at < 0 else None
        return b"" if at < 0 else data[at + 2 :]

    # What the parser tells

    def _begin_part(self) -> None:
        self._headers = {}

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._name, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        kind, parameters = parse_options_header(self._headers.get("content-disposition"))
        if kind != b"form-data" or b"name" not in parameters:
            raise InvalidForm("content-disposition: expected form-data with a name in each part")
        coding = self._headers.get("content-transfer-encoding", "").strip().lower()
        if coding not in _PLAIN:
            raise InvalidForm(f"content-transfer-encoding: expected none, got {coding[:40]!a}")
        self._part = parameters[b"name"].decode(errors="replace")
        if self._part == "file":
            self._begin_file(parameters)
        elif self._part in OPTIONS:
            self._option = bytearray()

    def _begin_file(self, parameters: Mapping[bytes, bytes]) -> None:
        if self.has_begun:
            raise InvalidForm("file: expected one part of this name, got another one")
        self.has_begun = True
        filename = parameters.get(b"filename", b"").decode(errors="replace")
        said = {"filename": filename, "filetype": self._headers.get("content-type", "").strip()}
        self.described |= {name: text[:_NAME_MOST] for name, text in said.items() if text}

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._part == "file":
            self.received += end - start
            if self.received > self._most:
                raise FileTooLarge(f"file: expected at most {self._most} bytes, got more")
            self._pieces.append(memoryview(data)[start:end])
        elif self._option is not None:
            self._option += data[start:end]
            if len(self._option) > _VALUE_MOST:
                raise InvalidForm(f"{self._part}: expected at most {_VALUE_MOST} bytes, got more")

    def _end_part(self) -> None:
        if self._part == "file":
            self.has_file = True
        elif self._option is not None:
            self._take_option(self._part, self._option.decode(errors="replace"))
            self._option = None

    def _take_option(self, name: str, text: str) -> None:
        if name in self.described:
            raise InvalidForm(f"{name}: expected one part of this name, got another one")
        try:
            Options.parse({name: text})
        except InvalidOption as error:
            raise InvalidForm(str(error)) from None
        self.described[name] = text.strip()

    def _end(self) -> None:
        self.ended = True
