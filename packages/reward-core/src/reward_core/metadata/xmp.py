"""XMP, as far as one value of our own and a picture's description go; the rest stays byte for byte."""

from __future__ import annotations

import re
from html import escape, unescape

NAMESPACE = "urn:reward-core:1.0/"
_END = re.compile(rb"</([A-Za-z_][\w.-]*):RDF\s*>")
_DESCRIPTION = re.compile(r"<dc:description>.*?<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF>'
    b'</x:xmpmeta><?xpacket end="w"?>'
)


class StrangeXmp(ValueError):
    """A packet that has no place for another value."""


def get(packet: bytes, key: str) -> str | None:
    """Return our value of that key."""
    found = re.search(_ours(key), packet)
    return None if found is None else unescape(found[2].decode("utf-8", "replace"))


def put(packet: bytes | None, key: str, value: str) -> bytes:
    """Return the packet (None: a new one) with our value of that key."""
    packet = _EMPTY if packet is None else packet
    content = escape(value).encode()
    old = re.search(_ours(key), packet)
    if old is not None:
        return packet[: old.start(2)] + content + packet[old.end(2) :]
    ends = list(_END.finditer(packet))
    if not ends:
        raise StrangeXmp("its XMP packet is no RDF that could take another value")
    rdf, place = ends[-1][1], ends[-1].start()
    name, namespace = _name(key).encode(), NAMESPACE.encode()
    own = b'<%s:Description %s:about="" xmlns:rewardcore="%s" %s="%s"/>' % (
        rdf,
        rdf,
        namespace,
        name,
        content,
    )
    return packet[:place] + own + packet[place:]


def keys(packet: bytes) -> list[str]:
    """Return the keys of all our values."""
    return [_key(name.decode()) for name in re.findall(rb'\brewardcore:([\w.-]+)="', packet)]


def description(packet: bytes) -> str | None:
    """dc:description, in its first language."""
    found = _DESCRIPTION.search(packet.decode("utf-8", "replace"))
    return unescape(found[1]).strip() or None if found else None


def _name(key: str) -> str:
    """An XML name of its own for every key: a space is "-", what XML does not take its number."""
    name = re.sub(r"[^A-Za-z0-9. ]", lambda sign: f"_{ord(sign[0]):02X}_", key).replace(" ", "-")
    return "rewardcore:" + ("_" if name[0].isdigit() else "") + name


def _key(name: str) -> str:
    """Return the key of an XML name; the inverse of ``_name``."""
    name = name.removeprefix("_").replace("-", " ")
    return re.sub(r"_([0-9A-F]{2})_", lambda code: chr(int(code[1], 16)), name)


def _ours(key: str) -> bytes:
    return rb"(" + re.escape(_name(key)).encode() + rb'=")([^"]*)"'
