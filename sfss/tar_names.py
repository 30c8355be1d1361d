"""What a file is called in a tar archive: its key, unless unpacking that would reach outside of the folder."""

from __future__ import annotations


def tar_name(key: bytes) -> str:
    """The key as text (bytes that are no UTF-8 as surrogates). One that is no safe file name (absolute, or with a `..`
    segment) is put below `unsafe/`, percent-encoded."""
    name = key.decode("utf-8", "surrogateescape")
    if name.startswith("/") or any(segment in ("", ".", "..") for segment in name.split("/")):
        return "unsafe/" + "".join(f"%{byte:02X}" if byte in b"/.%" or byte > 0x7E else chr(byte) for byte in key)
    return name
