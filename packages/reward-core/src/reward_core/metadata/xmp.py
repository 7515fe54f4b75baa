"""XMP: read descriptions, read and write our values, and keep every other byte."""

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
    """An XMP packet to which no value can be added."""


def get(packet: bytes, key: str) -> str | None:
    """Return our value for a key, or None."""
    match = re.search(_ours(key), packet)
    return None if match is None else unescape(match[2].decode("utf-8", "replace"))


def put(packet: bytes | None, key: str, value: str) -> bytes:
    """Return the packet (None for a new one) with our value for a key."""
    packet = _EMPTY if packet is None else packet
    content = escape(value).encode()
    old = re.search(_ours(key), packet)
    if old is not None:
        return packet[: old.start(2)] + content + packet[old.end(2) :]
    ends = list(_END.finditer(packet))
    if not ends:
        raise StrangeXmp("its XMP packet is not valid RDF, so no value can be added")
    rdf, offset = ends[-1][1], ends[-1].start()
    name, namespace = _name(key).encode(), NAMESPACE.encode()
    element = b'<%s:Description %s:about="" xmlns:rewardcore="%s" %s="%s"/>' % (
        rdf,
        rdf,
        namespace,
        name,
        content,
    )
    return packet[:offset] + element + packet[offset:]


def keys(packet: bytes) -> list[str]:
    """Return the keys of all our values."""
    return [_key(name.decode()) for name in re.findall(rb'\brewardcore:([\w.-]+)="', packet)]


def texts(packet: bytes) -> dict[str, str]:
    """Return the texts of properties (dc:description, ...) by name."""
    text = text_encoding.decode_leniently(packet)
    values = {name: _property(text, name) for name in PROPERTIES}
    return {name: value for name, value in values.items() if value}


def _property(packet: str, name: str) -> str | None:
    """Return the value of a property, which is an element or an attribute."""
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
    """Return the content of the first rdf:li element, or None."""
    item = _ITEM.search(content)
    start = content.find(">", item.end()) + 1 if item else 0
    end = content.find("</rdf:li>", start) if start else -1
    return content[start:end] if end >= 0 else None


def _name(key: str) -> str:
    """Return a unique XML name for a key."""
    name = re.sub(r"[^A-Za-z0-9. ]", lambda sign: f"_{ord(sign[0]):02X}_", key).replace(" ", "-")
    return "rewardcore:" + ("_" if name[0].isdigit() else "") + name


def _key(name: str) -> str:
    """Return the key for an XML name (the inverse of ``_name``)."""
    name = name.removeprefix("_").replace("-", " ")
    return re.sub(r"_([0-9A-F]{2})_", lambda code: chr(int(code[1], 16)), name)


def _ours(key: str) -> bytes:
    return rb"(" + re.escape(_name(key)).encode() + rb'=")([^"]*)"'
