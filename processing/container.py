"""Tell from its first bytes what a file may be: a video, a still image; pure.

Only what is plainly something else is turned away: whether it can be decoded, the decoder says.
"""

from __future__ import annotations

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
STILL_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",
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


def looks_like_still(head: bytes) -> bool:
    """Tell from its first bytes whether a file is a still image that OpenCV may decode."""
    webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    return webp or head[4:12] == b"ftypavif" or head.startswith(STILL_SIGNATURES)
