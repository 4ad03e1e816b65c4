"""What is not CBOR: frames, the block protocol, blocks of files, tensor files, updates, bundles.

Each reader gives the notation of the vectors and what a writer writes, or raises `Refused` with the word of its page.
"""

import json
import math
import struct
import tomllib

import ids
from schema import Refused

MIB = 1 << 20


class Bytes:
    """Bytes from the front, refused as `cut` where they end."""

    def __init__(self, data):
        self.rest = data

    def take(self, count, word="cut"):
        if count > len(self.rest):
            raise Refused(word)
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def number(self, width, order="big", word="cut"):
        return int.from_bytes(self.take(width, word), order)


# encoding.md: frames.


def unframed(data, limit):
    stream = Bytes(data)
    length = stream.number(4)
    if length > limit:
        raise Refused("too_long")
    return stream.take(length)


# shard.md.

REASONS = ["Busy", "NoRoom", "Banned"]
MAX_REQUEST, MAX_RESPONSE, MAX_BLOCK = 6_728, 4_194_326, 2 * MIB


def counted(stream, most):
    count = stream.number(1)
    if not 1 <= count <= most:
        raise Refused("count")
    return count


def shard_cid(stream):
    data = stream.take(stream.number(1))
    if not ids.is_cid(data):
        raise Refused("cid")
    return ids.cid_text(data)


def shard_request(data):
    if len(data) > MAX_REQUEST:
        raise Refused("too_long")
    stream = Bytes(data)
    kind = stream.number(1)
    if kind == 1:
        budget = stream.number(4)
        value = {"Get": {"budget": budget, "cids": [shard_cid(stream) for _ in range(counted(stream, 4))]}}
    elif kind == 2:
        value = {"Have": {"cids": [shard_cid(stream) for _ in range(counted(stream, 64))]}}
    elif kind == 3:
        size = stream.number(8)
        value = {"Hold": {"size": size, "root": shard_cid(stream)}}
    elif kind == 4:
        value = {"Held": {"root": shard_cid(stream)}}
    else:
        raise Refused("kind")
    return ended(stream, value), data


def shard_response(data):
    if len(data) > MAX_RESPONSE:
        raise Refused("too_long")
    stream = Bytes(data)
    kind = stream.number(1)
    if kind == 1:
        heads = [(stream.number(1), stream.number(4)) for _ in range(counted(stream, 4))]
        value = {"Blocks": [block(stream, *head) for head in heads]}
    elif kind == 2:
        value = {"Have": [flag(stream.number(1)) for _ in range(counted(stream, 64))]}
    elif kind == 4:
        reason = stream.number(1)
        if reason >= len(REASONS):
            raise Refused("reason")
        value = {"Refused": REASONS[reason]}
    elif kind in (3, 5):
        value = "Accepted" if kind == 3 else "Noted"
    else:
        raise Refused("kind")
    return ended(stream, value), data


def block(stream, state, length):
    if state == 1 and length > MAX_BLOCK:
        raise Refused("block")
    if state > 2 or (state != 1 and length):
        raise Refused("state")
    return {"present": stream.take(length).hex()} if state == 1 else ("missing" if state == 0 else "omitted")


def flag(byte):
    if byte > 1:
        raise Refused("flag")
    return byte == 1


def ended(stream, value):
    if stream.rest:
        raise Refused("trailing")
    return value


# content.md: dag-pb and UnixFS, both protobuf.


def fields(data):
    """Number and value of each field; values are numbers or bytes."""
    while data:
        key, data = number(data)
        if key & 7 not in (0, 2) or not key >> 3:
            raise Refused("protobuf")
        value, data = number(data)
        if key & 7 == 2:
            if value > len(data):
                raise Refused("protobuf")
            value, data = data[:value], data[value:]
        yield key >> 3, value


def number(data):
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, data[index + 1 :]
    raise Refused("protobuf")


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(key, value):
    if isinstance(value, int):
        return varint(key << 3) + varint(value)
    return varint(key << 3 | 2) + varint(len(value)) + value


def dag_pb(data):
    links, content, closed = [], None, False
    for key, value in fields(data):
        if key == 2 and isinstance(value, bytes) and not closed:
            links.append(dag_pb_link(value))
        elif key == 1 and isinstance(value, bytes) and content is None:
            content, closed = value, bool(links)
        else:
            raise Refused("field")
    content = content or b""
    written = b"".join(
        field(2, field(1, cid) + field(2, name.encode()) + field(3, size)) for cid, name, size in links
    ) + field(1, content)
    named = [{"cid": ids.cid_text(cid), "name": name, "total_size": size} for cid, name, size in links]
    return {"links": named, "data": content.hex()}, written


def dag_pb_link(data):
    found = {}
    for key, value in fields(data):
        if key in found or {1: bytes, 2: bytes, 3: int}.get(key) is not type(value):
            raise Refused("field")
        found[key] = value
    if 1 not in found or not ids.is_cid(found[1]):
        raise Refused("link")
    try:
        return found[1], found.get(2, b"").decode(), found.get(3, 0)
    except UnicodeDecodeError as error:
        raise Refused("name") from error


def unixfs(data):
    node, _ = dag_pb(data)
    links = node["links"]
    found, sizes = {}, []
    for key, value in fields(bytes.fromhex(node["data"])):
        if key == 4:
            while isinstance(value, bytes) and value:
                size, value = number(value)
                sizes.append(size)
            sizes += [value] if isinstance(value, int) else []
        elif key in (7, 8):
            continue
        elif key in found or {1: int, 2: bytes, 3: int, 5: int, 6: int}.get(key) is not type(value):
            raise Refused("field")
        else:
            found[key] = value
    if 1 not in found:
        raise Refused("field")
    if found[1] in (0, 2):
        return unixfs_file(links, found, sizes), data
    if found[1] == 1:
        return unixfs_directory(links), data
    if found[1] == 5:
        if (found.get(5), found.get(6)) != (0x22, 256):
            raise Refused("sharded")
        entries = [link for link in links if len(link["name"]) > 2]
        nodes = [link["cid"] for link in links if len(link["name"]) == 2]
        return {"sharded": {"entries": len(entries), "nodes": nodes}}, data
    raise Refused("type")


def unixfs_file(links, found, sizes):
    content = found.get(2, b"")
    if not links:
        if found.get(3, len(content)) != len(content):
            raise Refused("sizes")
        return {"leaf": content.hex()}
    if content or 0 in sizes or len(sizes) != len(links) or found.get(3) != sum(sizes):
        raise Refused("sizes")
    parts = [{"cid": link["cid"], "size": size} for link, size in zip(links, sizes)]
    return {"file": {"size": sum(sizes), "parts": parts}}


def unixfs_directory(links):
    names = [link["name"] for link in links]
    if any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
        raise Refused("name")
    raw = [name.encode() for name in names]
    if raw != sorted(set(raw)):
        raise Refused("order")
    return {"directory": [{"name": link["name"], "cid": link["cid"]} for link in links]}


# content.md: writing. Each gives (CID, bytes of the file, bytes of all blocks below).


def file_of(data):
    chunks = [data[at : at + MIB] for at in range(0, len(data), MIB)] or [b""]
    level = [(ids.cid_of(0x55, chunk), len(chunk), len(chunk)) for chunk in chunks]
    while len(level) > 1:
        level = [branch(level[at : at + 1024]) for at in range(0, len(level), 1024)]
    return level[0]


def branch(parts):
    size = sum(part[1] for part in parts)
    content = field(1, 2) + field(3, size) + b"".join(field(4, part[1]) for part in parts)
    return node_of([(cid, "", total) for cid, _, total in parts], content, size)


def directory_of(files):
    entries = sorted(((name, file_of(data)) for name, data in files.items()), key=lambda entry: entry[0].encode())
    size = sum(part[1] for _, part in entries)
    return node_of([(part[0], name, part[2]) for name, part in entries], b"\x08\x01", size)


def node_of(links, content, size):
    block = b"".join(field(2, field(1, cid) + field(2, name.encode()) + field(3, total)) for cid, name, total in links)
    block += field(1, content)
    return ids.cid_of(0x70, block), size, len(block) + sum(total for _, _, total in links)


# state-root.md: safetensors.

WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4}
WIDTHS |= {"U64": 8, "I64": 8, "F64": 8}


def safetensors(data):
    tensors = tensors_of(data)
    value = {name: {"dtype": dtype, "shape": shape, "data": raw.hex()} for name, (dtype, shape, raw) in tensors.items()}
    return value, tensor_file(tensors)


def tensors_of(data):
    """Name to (type, shape, bytes)."""
    if len(data) < 8:
        raise Refused("header")
    length = int.from_bytes(data[:8], "little")
    if length > MIB or length > len(data) - 8:
        raise Refused("header")
    try:
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        entries = [(entry["data_offsets"], name, entry["dtype"], entry["shape"]) for name, entry in header.items()]
        if any(dtype not in WIDTHS for _, _, dtype, _ in entries):
            raise ValueError("unknown type")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise Refused("header") from error
    tensors, end = {}, 0
    for (start, stop), name, dtype, shape in sorted(entries):
        whole = math.prod(dimension for dimension in shape if dimension)
        if len(shape) > 8 or len(name.encode()) > 512 or whole * WIDTHS[dtype] >= 1 << 64:
            raise Refused("header")
        if (start, stop) != (end, end + math.prod(shape) * WIDTHS[dtype]):
            raise Refused("header")
        tensors[name] = (dtype, shape, data[8 + length + start : 8 + length + stop])
        end = stop
    if 8 + length + end != len(data):
        raise Refused("gap")
    return tensors


def tensor_file(tensors):
    entries, offset = [], 0
    for name in sorted(tensors, key=str.encode):
        dtype, shape, raw = tensors[name]
        shape = json.dumps(shape, separators=(",", ":"))
        text = json.dumps(name, ensure_ascii=False)
        entries.append(f'{text}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{offset},{offset + len(raw)}]}}')
        offset += len(raw)
    header = ("{" + ",".join(entries) + "}").encode()
    header += b" " * (-len(header) % 8)
    data = b"".join(tensors[name][2] for name in sorted(tensors, key=str.encode))
    return len(header).to_bytes(8, "little") + header + data


# update.md.

CODECS = ["f32", "i8b256"]


def update(data):
    try:
        codec, shapes, payload = update_head(data)
    except UnicodeDecodeError as error:
        raise Refused("malformed") from error
    values = {}
    for name, shape in shapes.items():
        count = math.prod(shape)
        if codec == "f32":
            values[name] = list(struct.unpack(f"<{count}f", payload.take(4 * count, "malformed")))
        else:
            values[name] = [value for at in range(0, count, 256) for value in update_block(payload, min(256, count - at))]
        if not all(math.isfinite(value) for value in values[name]):
            raise Refused("not_finite")
    if payload.rest:
        raise Refused("malformed")
    return values, data


def update_head(data):
    stream = Bytes(data)
    if stream.take(8, "malformed") != b"ATLASUPD" or stream.number(2, "little", "malformed") != 1:
        raise Refused("malformed")
    codec, reserved = stream.number(1, word="malformed"), stream.number(1, word="malformed")
    count = stream.number(4, "little", "malformed")
    if codec > 1 or reserved:
        raise Refused("malformed")
    shapes = {}
    for _ in range(count):
        name = stream.take(stream.number(2, "little", "malformed"), "malformed")
        rank = stream.number(1, word="malformed")
        if len(name) > 512 or rank > 8 or (shapes and name <= list(shapes)[-1]):
            raise Refused("malformed")
        shapes[name] = [stream.number(8, "little", "malformed") for _ in range(rank)]
        if len(data) - len(stream.rest) > MIB + 16:
            raise Refused("malformed")
    padding = -(len(data) - len(stream.rest)) % 8
    if stream.take(padding, "malformed") != bytes(padding):
        raise Refused("malformed")
    total = sum(4 * math.prod(s) if codec == 0 else math.prod(s) + 2 * -(-math.prod(s) // 256) for s in shapes.values())
    if total != len(stream.rest):
        raise Refused("malformed")
    return CODECS[codec], {name.decode(): shape for name, shape in shapes.items()}, stream


def bf16(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def update_block(payload, count):
    bits = payload.number(2, "little", "malformed")
    quantised = struct.unpack(f"{count}b", payload.take(count, "malformed"))
    scale, largest = bf16(bits), max(abs(q) for q in quantised)
    if not math.isfinite(scale):
        raise Refused("not_finite")
    if largest > 127 or (largest == 0) != (bits == 0) or bits >> 15:
        raise Refused("malformed")
    # Python's round() rounds half to even.
    if largest and largest < round(127.0 * bf16(bits - 1) / scale):
        raise Refused("malformed")
    return [q * scale for q in quantised]


def scale_bits(block):
    """The smallest bf16 s with 127·s ≥ max|x|."""
    largest, bits = max(abs(x) for x in block), 0
    low, high = 0, 0x7F7F
    while low < high:
        bits = (low + high) // 2
        low, high = (low, bits) if 127.0 * bf16(bits) >= largest else (bits + 1, high)
    return low


def update_of(base, trained, codec):
    """The encoded difference of two tensor files."""
    base, trained = tensors_of(base), tensors_of(trained)
    names = sorted(base, key=str.encode)
    out = b"ATLASUPD" + struct.pack("<HBBI", 1, CODECS.index(codec), 0, len(names))
    for name in names:
        shape = base[name][1]
        out += struct.pack("<H", len(name.encode())) + name.encode() + struct.pack(f"<B{len(shape)}Q", len(shape), *shape)
    out += bytes(-len(out) % 8)
    for name in names:
        count = math.prod(base[name][1])
        pair = (struct.unpack(f"<{count}f", tensors[name][2]) for tensors in (base, trained))
        delta = [struct.unpack("<f", struct.pack("<f", a - b))[0] for a, b in zip(*pair)]
        if not all(map(math.isfinite, delta)):
            raise Refused("not_finite")
        if codec == "f32":
            out += struct.pack(f"<{count}f", *delta)
            continue
        for at in range(0, count, 256):
            block = delta[at : at + 256]
            bits = scale_bits(block)
            scale = bf16(bits)
            out += struct.pack(f"<H{len(block)}b", bits, *(round(x / scale) if bits else 0 for x in block))
    return out


# script.md: atlas.toml.

MODES = {"train", "eval", "infer", "serve", "verify"}
KEYS = {"contract", "name", "version", "entry", "modes", "deterministic", "peak_memory_mib"}
KEYS |= {"python", "inputs", "outputs", "check"}


def bundle(data):
    try:
        found = tomllib.loads(data.decode())
        if set(found) - KEYS or set(found.get("modes", [])) - MODES or found["contract"] != "atlas-script/1":
            raise Refused("invalid")
        python = found.get("python", {})
        inside = [found["entry"][0]] + [python[key] for key in ("site_packages", "interpreter") if key in python]
        if any(path.startswith("/") or ".." in path.split("/") for path in inside):
            raise Refused("invalid")
        value = {
            "contract": found["contract"],
            "name": found["name"],
            "version": found["version"],
            "entry": found["entry"],
            "deterministic": found.get("deterministic", False),
            "peak_memory_mib": found.get("peak_memory_mib", 0),
            "requires": python.get("requires", ""),
            "packages": python.get("packages", []),
            "site_packages": python.get("site_packages"),
            "interpreter": python.get("interpreter"),
            "channels": found.get("inputs", {}).get("channels", []),
            "files": found.get("outputs", {}).get("files", []),
        }
    except (tomllib.TOMLDecodeError, KeyError, IndexError) as error:
        raise Refused("invalid") from error
    return value, data
