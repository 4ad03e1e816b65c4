"""What the pages define as a function of something."""

import json

import cbor2

import formats
import ids
import sealed
from ids import hashed, sha, u32, u64
from schema import Refused

MIB = 1 << 20
EMPTY_PLACE = b"SPARSE_MERKLE_PLACEHOLDER_HASH__"
#: ledger-state.md: the number of each kind of offence in a key.
OFFENCES = {"two_receipts": 0, "two_roots": 1, "forged_receipt": 2, "verdict": 3}
#: ledger-state.md: the kind of each key, and how many bytes each number in its id has.
KINDS = {
    "Genesis": ("g", []),
    "Clock": ("c", []),
    "Account": ("a", [0]),
    "Node": ("n", [0]),
    "NodeClock": ("l", [0]),
    "Job": ("j", [0]),
    "Task": ("t", [0]),
    "TaskClock": ("k", [0]),
    "Round": ("r", [0, 4]),
    "Payout": ("p", [8, 0, 4]),
    "Model": ("m", [0]),
    "Inference": ("i", [0, 0]),
    "Stake": ("s", [0]),
    "Offence": ("o", [0, 1, 0, 4]),
    "Standing": ("q", [0]),
    "Allowance": ("u", [0]),
    "Totals": ("y", []),
    "Validators": ("v", []),
    "Rules": ("e", []),
    "Proposals": ("f", []),
    "Object": ("h", [0, 0]),
}


def joined(parts):
    """Bytes in the notation of the vectors."""
    if isinstance(parts, str):
        return bytes.fromhex(parts)
    return b"".join(
        bytes.fromhex(part) if isinstance(part, str) else bytes.fromhex(part["repeat"]) * part["times"] for part in parts
    )


def unhex(text):
    return bytes.fromhex(text)


def run(function, given):
    return globals()[function.replace("-", "_")](given)


# encoding.md, network.md, job.md.


def digest(given):
    return sha(joined(given["bytes"])).hex()


def message_id(given):
    return sha(joined(given["data"])).hex()


def peer_id(given):
    return ids.peer_id(unhex(given["key"]))


def address(given):
    return ids.address(unhex(given["key"]))


def job_id(given):
    parts = (given["chain_id"].encode(), b"\x00", unhex(given["creator"]), u64(given["nonce"]))
    return hashed("atlas/job/v1", *parts).hex()


def task_id(given):
    return ids.task_bytes(given["text"]).hex()


def assignment_id(given):
    numbers = u32(given["round"]) + u32(given["generation"])
    return hashed("atlas/assign/v1", ids.task_bytes(given["task"]), numbers, unhex(given["lease"])).hex()


def topic(given):
    return f"/atlas/jobs/{given['job']}/updates"


def seed(given):
    return hashed("atlas/seed/v1", u64(given["seed"]), u32(given["slot"]), u32(given["cursor"])).hex()


# rendezvous.md.


def order(domain, parts, candidates):
    return sorted(set(candidates), key=lambda each: hashed(domain, *map(unhex, parts), unhex(each)), reverse=True)


def rendezvous(given):
    return order(given["domain"], given["parts"], given["candidates"])


def volunteers(given):
    ranked = order("atlas/volunteer/v1", [given["job"]], given["candidates"])
    turn = (given["slot"] + given["generation"]) % len(ranked)
    return sorted(ranked[turn:] + ranked[:turn], key=given["holders"].count)


# Trees of RFC 6962: proof.md, state-root.md.


def levels(leaves):
    found = [leaves]
    while len(found[-1]) > 1:
        level = found[-1]
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        found.append([sha(b"\x01", *pair) if len(pair) == 2 else pair[0] for pair in pairs])
    return found


def root(leaves):
    return levels(leaves)[-1][0] if leaves else sha()


def leaves_of(trace):
    return [sha(b"\x00", unhex(state)) for state in trace]


def trace_root(given):
    return root(leaves_of(given["trace"])).hex()


def trace_path(given):
    index, path = given["index"], []
    for level in levels(leaves_of(given["trace"]))[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1].hex())
        index //= 2
    return path


def opening_holds(given):
    index, count = given["index"], given["segments"] + 1
    if index >= count:
        return False
    node, path = sha(b"\x00", unhex(given["state_root"])), [unhex(each) for each in given["path"]]
    while count > 1:
        if index % 2 or index + 1 < count:
            if not path:
                return False
            sibling = path.pop(0)
            node = sha(b"\x01", sibling, node) if index % 2 else sha(b"\x01", node, sibling)
        index, count = index // 2, -(-count // 2)
    return not path and node == unhex(given["trace_root"])


def text(value):
    return u32(len(value.encode())) + value.encode()


def params_root(given):
    tensors, leaves = formats.tensors_of(joined(given["file"])), []
    for name in sorted(tensors, key=str.encode):
        dtype, shape, raw = tensors[name]
        chunks = root([sha(b"\x00", raw[at : at + MIB]) for at in range(0, len(raw), MIB)])
        dimensions = u32(len(shape)) + b"".join(map(u64, shape))
        leaves.append(sha(b"\x00", text("atlas/tensor/v1"), text(name), text(dtype), dimensions, chunks))
    return root(leaves).hex()


def state_root(given):
    roots = unhex(given["params_root"]) + unhex(given["opt_root"])
    return sha(b"\x02", roots, u64(given["step"]), sha(unhex(given["extra"]))).hex()


# receipt.md, round-outcome.md, update.md.


def computation_hash(given):
    cids = [ids.cid_bytes(given[name]) for name in ("bundle", "shard")]
    roots = [unhex(given[name]) for name in ("seed", "in_params_root", "in_opt_root", "out_state_root")]
    return hashed("atlas/computation/v1", *(u32(len(cid)) + cid for cid in cids), *roots).hex()


def outcome_digest(given):
    return hashed("atlas/round-outcome/v1", unhex(given["bytes"])).hex()


def update(given):
    try:
        return formats.update_of(unhex(given["base"]), unhex(given["trained"]), given["codec"]).hex()
    except Refused as refused:
        return str(refused)


# content.md.


def file_cid(given):
    return ids.cid_text(formats.file_of(joined(given["bytes"]))[0])


def directory_cid(given):
    files = {name: joined(content) for name, content in given["files"].items()}
    return ids.cid_text(formats.directory_of(files)[0])


def numbers(seed):
    counter = 0
    while True:
        block = hashed("atlas/shuffle/v1", u64(seed), u64(counter))
        yield from (int.from_bytes(block[at : at + 8], "big") for at in range(0, 32, 8))
        counter += 1


def shuffled(records, seed):
    drawn = numbers(seed)
    for last in range(len(records) - 1, 0, -1):
        bound = last + 1
        number = next(each for each in drawn if each < (1 << 64) // bound * bound)
        other = number % bound
        records[last], records[other] = records[other], records[last]
    return records


def cut(given):
    data, form = unhex(given["bytes"]), given["format"]
    if form["kind"] == "lines":
        lines = data.split(b"\n")
        header = lines.pop(0) + b"\n" if form["header"] else b""
        records = [line + b"\n" for line in lines if line]
    else:
        header, width = b"", form["bytes"]
        records = [data[at : at + width] for at in range(0, len(data), width)]
    count, slots = len(records), given["slots"]
    records = shuffled(records, given["seed"])
    held = -(-count * given["held_out"] // 10_000)
    rest = count - held
    bounds = [held + rest * slot // slots for slot in range(slots + 1)]

    def stored(start, end):
        cid, size, _ = formats.directory_of({given["file_name"]: header + b"".join(records[start:end])})
        return {"cid": ids.cid_text(cid), "size": size, "records": end - start}

    manifest = {
        "format": {"kind": form["kind"]} | {key: form[key] for key in form if key != "kind"},
        "seed": given["seed"],
        "records": count,
        "held_out": stored(0, held)["cid"] if held else None,
        "shards": [stored(bounds[slot], bounds[slot + 1]) for slot in range(slots)],
    }
    cid = formats.file_of(json.dumps(manifest, separators=(",", ":")).encode())[0]
    return {"manifest": manifest, "cid": ids.cid_text(cid)}


# ledger-state.md.


def key_of(data):
    item = cbor2.loads(data)
    name, content = next(iter(item.items())) if isinstance(item, dict) else (item, [])
    kind, widths = KINDS[name]
    if name == "Object":
        content = [content["owner"], content["name"]]
    if name == "Offence":
        content = [content["node"], OFFENCES[content["kind"]], content["job"], content["round"]]
    parts = content if isinstance(content, list) else [content]
    spelled = [part.to_bytes(width, "big") if width else part for part, width in zip(parts, widths)]
    return kind.encode() + b"".join(part.encode() if isinstance(part, str) else part for part in spelled)


def key_bytes(given):
    return key_of(unhex(given["key"])).hex()


def tree_leaf(path, value_hash):
    return sha(b"JMT::LeafNode", path, value_hash)


def tree_node(left, right):
    return sha(b"JMT::IntrnalNode", left, right)


def bit(path, depth):
    return path[depth // 8] >> 7 - depth % 8 & 1


def tree(leaves, depth=0):
    """The root of a subtree; leaves are (path, hash of the value)."""
    if not leaves:
        return EMPTY_PLACE
    if len(leaves) == 1:
        return tree_leaf(*leaves[0])
    sides = [[leaf for leaf in leaves if bit(leaf[0], depth) == side] for side in (0, 1)]
    return tree_node(*(tree(side, depth + 1) for side in sides))


def app_hash(given):
    return tree([(sha(unhex(each["key"])), sha(unhex(each["value"]))) for each in given["records"]]).hex()


def sibling_hash(sibling):
    if sibling == "Null":
        return EMPTY_PLACE
    [(kind, node)] = sibling.items()
    if kind == "Leaf":
        return tree_leaf(bytes(node["key_hash"]), bytes(node["value_hash"]))
    return tree_node(bytes(node["left_child"]), bytes(node["right_child"]))


def shared_bits(a, b):
    return next((depth for depth in range(256) if bit(a, depth) != bit(b, depth)), 256)


def proof_holds(given):
    path, proof = sha(key_of(unhex(given["key"]))), cbor2.loads(unhex(given["proof"]))
    value, leaf, siblings = proof["value"], proof["path"]["leaf"], proof["path"]["siblings"]
    if len(siblings) > 256:
        return False
    if value is not None:
        if leaf is None or bytes(leaf["key_hash"]) != path or bytes(leaf["value_hash"]) != sha(value):
            return False
    elif leaf is not None:
        other = bytes(leaf["key_hash"])
        if other == path or shared_bits(other, path) < len(siblings):
            return False
    node = tree_leaf(bytes(leaf["key_hash"]), bytes(leaf["value_hash"])) if leaf else EMPTY_PLACE
    for depth, sibling in zip(range(len(siblings) - 1, -1, -1), siblings):
        other = sibling_hash(sibling)
        node = tree_node(other, node) if bit(path, depth) else tree_node(node, other)
    return node == unhex(given["app_hash"])


# Sealed data: content.md and task.md.


def data_key(given):
    return sealed.commitment(unhex(given["key"])).hex()


def sealed_file(given):
    content = joined(given["bytes"])
    made = sealed.seal(unhex(given["key"]), unhex(given["prefix"]), content)
    if sealed.unseal(unhex(given["key"]), made) != content:
        raise Refused("what is sealed does not come back")
    return {"length": len(made), "digest": sha(made).hex()}


def open_data_key(given):
    info = sealed.purpose(ids.task_bytes(given["task"]), given["generation"])
    return sealed.open_key(unhex(given["secret"]), info, unhex(given["sealed"])).hex()
