"""Tell whether something is a video, from its first bytes or from what its metadata says.

Only what is plainly something else is turned away: whether it can be decoded, the analysis says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusd_py.headers import media_type

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bytes after which every answer is final.
HEAD_SIZE = 64

# ISO base media and QuickTime: the kinds of box that a file may begin with.
_BOXES = frozenset(b"ftyp styp moov moof mdat wide free skip pnot sidx pdin uuid junk".split(b" "))
# Brands whose files are images or sound.
_OTHER_BRANDS = frozenset(
    b"avif,avis,heic,heix,heim,heis,hevc,hevx,mif1,msf1,crx ,jp2 ,jpx ,"
    b"M4A ,M4B ,M4P ,F4A ,F4B ".split(b",")
)
_RIFF_KINDS = frozenset((b"AVI ", b"AVIX", b"AMV ", b"ON2 ", b"CDXA"))
_OGG_SOUND = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ", b"PCM     ")
_MAGIC = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),  # ASF, WMV
    bytes.fromhex("b7d800203749da11a64e0007e95ead8d"),  # WTV
    bytes.fromhex("060e2b34020501010d010201"),  # MXF
    *(b"\0\0\1" + bytes([code]) for code in (0xB0, 0xB3, 0xB5, 0xBA, 0xE0)),  # MPEG-PS and -ES
    b"\x1f\x07\x00",  # DV
    b"\x12\x00\x0a",  # AV1, low overhead
    b"DKIF",  # IVF
    b"YUV4MPEG2 ",
    b"nut/multimedia container\0",
    b".RMF",
    b"NSV",
    b"BIK",
    b"SMK",
)
# H.264 and H.265 without a container begin with one of these units.
_UNITS = (b"\x09", b"\x06", b"\x27", b"\x47", b"\x67", b"\x40\x01", b"\x42\x01", b"\x46\x01")
_STARTS = tuple(start + unit for start in (b"\0\0\1", b"\0\0\0\1") for unit in _UNITS)
_SYNC = 0x47
_PACKET = 188
_TEXT = frozenset(b"\t\n\f\r") | frozenset(range(0x20, 0x7F))

_OTHER_KINDS = frozenset(("audio", "font", "image", "message", "model", "multipart", "text"))
# Systems that know the extension .ts from elsewhere say this of MPEG-TS.
_MISTAKEN = "text/vnd.trolltech.linguist"
_OTHER_APPLICATIONS = tuple(
    f"application/{name}"
    for name in (
        *("pdf", "zip", "gzip", "x-gzip", "x-tar", "x-7z-compressed", "x-bzip2", "x-xz", "vnd.rar"),
        *("x-rar", "json", "xml", "javascript", "msword", "rtf", "vnd.openxmlformats-", "epub+zip"),
        *("vnd.oasis.opendocument.", "vnd.ms-excel", "vnd.ms-powerpoint", "vnd.ms-word"),
        *("x-msdownload", "x-executable", "java-archive", "vnd.android.package-archive"),
    )
)
_OTHER_EXTENSIONS = tuple(
    f".{name}"
    for name in (
        *("txt", "md", "csv", "json", "xml", "html", "htm", "css", "js", "py", "log", "rtf"),
        *("pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "odt", "ods", "odp", "epub"),
        *("zip", "gz", "tgz", "bz2", "xz", "7z", "rar", "tar", "jar", "apk", "exe", "dll", "msi"),
        *("jpg", "jpeg", "png", "gif", "bmp", "webp", "tif", "tiff", "svg", "ico", "heic", "heif"),
        *("avif", "psd", "mp3", "wav", "flac", "aac", "m4a", "oga", "opus", "wma", "aiff", "mid"),
    )
)


def looks_like_video(head: bytes) -> bool | None:
    """Tell from its first bytes whether FFmpeg may read a file as a video.

    None asks for more of them, up to `HEAD_SIZE`; a file that ends before is no video.
    """
    known = _of_box(head) or _of_riff(head) or _of_ogg(head)
    if known or head.startswith(_MAGIC) or head.startswith(_STARTS):
        return True
    if len(head) < HEAD_SIZE:
        return None
    # Blu-ray puts a time stamp before each packet.
    return _is_transport(head, 0, _PACKET) or _is_transport(head, 4, _PACKET + 4)


def _of_box(head: bytes) -> bool:
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return len(brand) == len(b"ftyp") and brand not in _OTHER_BRANDS
    return head[4:8] in _BOXES


def _of_riff(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] in _RIFF_KINDS


def _of_ogg(head: bytes) -> bool:
    # The first page tells what the first stream is; where there is a picture, it comes first.
    codec = head[28:36]
    whole = len(codec) == len(b"OpusHead")
    return head[:4] == b"OggS" and whole and not codec.startswith(_OGG_SOUND)


def _is_transport(head: bytes, at: int, distance: int) -> bool:
    """Tell whether an MPEG-TS packet begins there, and the next one as far as it is known."""
    if head[at] != _SYNC or head[at + distance : at + distance + 1] not in {b"", b"\x47"}:
        return False
    # No error, not scrambled, and something in it; text that begins with a G is no packet.
    sound = not head[at + 1] & 0x80 and 0x10 <= head[at + 3] < 0x40  # noqa: PLR2004
    return sound and not _TEXT.issuperset(head[:HEAD_SIZE]) and not head.startswith(b"GIF8")


def may_be_video(metadata: Mapping[str, bytes]) -> bool:
    """Tell whether an upload's metadata leaves it open that it is a video."""
    found = {name: value.decode(errors="replace") for name, value in metadata.items()}
    return is_video_type(
        found.get("filename", found.get("name")), found.get("filetype", found.get("type"))
    )


def is_video_type(filename: str | None, filetype: str | None) -> bool:
    """Tell whether a name and a media type leave it open; the type is believed first."""
    kind = media_type(filetype or "")
    if "/" not in kind:
        return not (filename or "").lower().endswith(_OTHER_EXTENSIONS)
    other = kind.partition("/")[0] in _OTHER_KINDS or kind.startswith(_OTHER_APPLICATIONS)
    return not other or kind == _MISTAKEN
