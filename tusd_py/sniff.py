"""Tell from its metadata whether an upload may be a video.

Only what is plainly something else is turned away: whether it can be decoded, the analysis says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusd_py.headers import media_type

if TYPE_CHECKING:
    from collections.abc import Mapping

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
