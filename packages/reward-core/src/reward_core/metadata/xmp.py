"""XMP, as far as one value of our own and an image's description go; the rest stays byte for byte."""

from __future__ import annotations

import re
from html import escape, unescape

from . import text_encoding

NAMESPACE = "urn:reward-core:1.0/"
_END = re.compile(rb"</([A-Za-z_][\w.-]*):RDF\s*>")
PROPERTIES = (
    "Iptc4xmpExt:AIPromptInformation", "dc:description", "dc:title", "exif:UserComment",
    "tiff:ImageDescription", "xmp:CreatorTool",
)  # fmt: skip
_ITEM = re.compile(r"<rdf:li\b")
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
    rdf, offset = ends[-1][1], ends[-1].start()
    name, namespace = _name(key).encode(), NAMESPACE.encode()
    own = b'<%s:Description %s:about="" xmlns:rewardcore="%s" %s="%s"/>' % (
        rdf,
        rdf,
        namespace,
        name,
        content,
    )
    return packet[:offset] + own + packet[offset:]


def keys(packet: bytes) -> list[str]:
    """Return the keys of all our values."""
    return [_key(name.decode()) for name in re.findall(rb'\brewardcore:([\w.-]+)="', packet)]


def texts(packet: bytes) -> dict[str, str]:
    """Names of properties (dc:description, exif:UserComment, ...) -> texts, each in its first language."""
    text = text_encoding.decode_leniently(packet)
    found = {name: _property(text, name) for name in PROPERTIES}
    return {name: value for name, value in found.items() if value}


def _property(packet: str, name: str) -> str | None:
    """The value of a property: an element with or without rdf:li, or an attribute of rdf:Description."""
    opened = re.search(rf"<{name}(?:\s[^<>]*)?(?<!/)>", packet)
    closed = packet.find(f"</{name}>", opened.end()) if opened else -1
    if opened and closed >= 0:
        content = packet[opened.end() : closed]
        item = _first_item(content)
        content = item if item is not None else "" if "<rdf:" in content else content
    elif attribute := re.search(rf"\s{name}=(?:\"([^\"<]*)\"|'([^'<]*)')", packet):
        content = attribute[1] or attribute[2] or ""
    else:
        return None
    content = content.strip()
    if content.startswith("<![CDATA[") and content.endswith("]]>"):
        return content[9:-3].strip()
    return unescape(content).strip()


def _first_item(content: str) -> str | None:
    """The content of the first rdf:li element; None where there is none."""
    item = _ITEM.search(content)
    start = content.find(">", item.end()) + 1 if item else 0
    end = content.find("</rdf:li>", start) if start else -1
    return content[start:end] if end >= 0 else None


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
