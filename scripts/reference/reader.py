#!/usr/bin/env python3
"""A second reader of the wire contract, written from the pages in `protocols/` alone.

It shares no code with the node: it reads the forms out of `protocols/schema.cddl` and the domains, limits and speakers of
signed objects out of the pages, and checks every vector in `protocols/vectors/`: decodes and encodes, verifies
signatures, recomputes what the pages define, and refuses what they say is to be refused.

    .venv/bin/python scripts/reference/reader.py [DIRECTORY]    the checkout's protocols/, or another one
"""

import json
import re
import sys
from pathlib import Path

import formats
import functions
import ids
import signatures
from schema import Refused, Schema, dump, load

PROTOCOLS = Path(__file__).resolve().parents[2] / "protocols"
#: Has a form of its own, and `aggregate.py` beside this file.
OTHER_FORMS = {"aggregate"}
#: The ledger that the transactions of the vectors are for.
CHAIN = "atlas-test"
#: What a signed object that stands alone may have beside its body (encoding.md).
ENVELOPE = 256
MAX_TRANSACTION = 524_288
#: The limits on the pages of the protocols, in bytes.
LIMITS = {
    "health-request": 1_049_600,
    "health-response": 1_049_600,
    "task-request": 66_560,
    "task-response": 66_560,
    "infer-request": 1_052_672,
    "infer-response": 1_052_672,
    "proof-request": 4_608,
    "proof-response": 4_096,
    "ledger-rpc-request": 1_049_600,
    "ledger-rpc-response": 8_388_608,
}
MAX_INPUT = 1_048_576
MAX_REASON = 512
FORMATS = {
    "shard-request": formats.shard_request,
    "shard-response": formats.shard_response,
    "dag-pb": formats.dag_pb,
    "unixfs": formats.unixfs,
    "safetensors": formats.safetensors,
    "update": formats.update,
    "bundle": formats.bundle,
}


class Reader:
    def __init__(self, protocols):
        source = (protocols / "schema.cddl").read_text()
        self.schema = Schema(source)
        #: Name of a signed type to its domain, which stands behind its rule.
        self.domains = dict(re.findall(r"^(signed-[a-z-]+) = .*; (atlas/[a-z-]+/v\d+)$", source, re.M))
        self.objects = self.signed_objects(protocols)

    def signed_objects(self, protocols):
        """Domain to (limit, field that must be the signer), out of the pages' sentences."""
        sentence = r"domain `(atlas/[^`]+)`, at most ([\d,]+) bytes[^;]*; (?:`(\w+)` must be the signer)?"
        found = {}
        for page in protocols.glob("*.md"):
            for domain, limit, field in re.findall(sentence, page.read_text()):
                found[domain] = (int(limit.replace(",", "")), field or None)
        return found

    def read(self, kind, data):
        """The meaning of `data`, and what a writer writes for it."""
        if kind in FORMATS:
            return FORMATS[kind](data)
        if kind == "frame":
            message = formats.unframed(data, LIMITS["health-request"])
            value, written = self.message("health-request", message)
            return value, len(written).to_bytes(4, "big") + written
        if kind in LIMITS:
            return self.message(kind, data)
        if kind == "signed-transaction":
            return self.transaction(data)
        if kind in self.domains:
            return self.signed(kind, data)
        return self.schema.read(kind, data)

    def message(self, kind, data):
        if len(data) > LIMITS[kind]:
            raise Refused("too_long")
        value, written = self.schema.read(kind, data)
        if kind == "infer-request" and len(value["input"]) > 2 * MAX_INPUT:
            raise Refused("too_long")
        if kind == "proof-response" and isinstance(value, dict) and "Refused" in value:
            refused = value["Refused"]
            refused["reason"] = refused["reason"].encode()[:MAX_REASON].decode(errors="ignore")
            written = dump({"Refused": refused})
        return value, written

    def signed(self, kind, data):
        domain = self.domains[kind]
        limit, speaker = self.objects[domain]
        if len(data) > limit + ENVELOPE:
            raise Refused("too_long")
        self.schema.read("signed-beat", data)
        return self.opened(kind, load(data), domain, limit, speaker)

    def opened(self, kind, envelope, domain, limit, speaker):
        body, signer, signature = envelope["body"], envelope["signer"], envelope["signature"]
        if len(body) > limit:
            raise Refused("too_long")
        if not signatures.is_key(signer):
            raise Refused("signer")
        if not signatures.verifies(domain, body, signer, signature):
            raise Refused("signature")
        try:
            value, written = self.schema.read(self.schema.object_of(kind), body)
        except Refused as refused:
            raise Refused("body") from refused
        if speaker and value[speaker] != signer.hex():
            raise Refused("speaker")
        meaning = {
            "signer": signer.hex(),
            "signature": signature.hex(),
            "digest": ids.sha(body).hex(),
            "object": value,
        }
        return meaning, written

    def transaction(self, data):
        """As a ledger that has seen none of the creator's takes it."""
        try:
            if len(data) > MAX_TRANSACTION:
                raise Refused("too_long")
            _, canonical = self.schema.read("signed-transaction", data)
            if canonical != data:
                raise Refused("malformed")
            domain = self.domains["signed-transaction"]
            value, written = self.opened("signed-transaction", load(data), domain, MAX_TRANSACTION, None)
        except Refused as refused:
            raise Refused("code 2" if str(refused) in ("signer", "signature") else "code 1") from refused
        if value["object"]["chain_id"] != CHAIN:
            raise Refused("code 3")
        return value, written

    def check(self, page, vector):
        """A complaint, or None."""
        place = f"{page}: {vector['type']}: {vector['name']}"
        data = functions.joined(vector["bytes"])
        if page == "control-api":
            return None
        try:
            value, written = self.read(vector["type"], data)
        except Refused as refused:
            wanted = vector.get("error", "to be taken")
            return None if str(refused) == wanted else f"{place}: refused as {refused}, not {wanted}"
        if "error" in vector:
            return f"{place}: taken, not refused as {vector['error']}"
        if value != vector["value"]:
            return f"{place}: means {json.dumps(value)}"
        is_signed = vector["type"].startswith("signed-")
        wanted = functions.joined(vector["written"]) if "written" in vector else load(data)["body"] if is_signed else data
        return None if written == wanted else f"{place}: a writer writes {written.hex()}"


def main(protocols):
    reader, complaints, checked = Reader(protocols), [], 0
    for path in sorted((protocols / "vectors").glob("*.json")):
        if path.stem in OTHER_FORMS:
            continue
        page = json.loads(path.read_text())
        complaints += filter(None, (reader.check(path.stem, vector) for vector in page["vectors"]))
        for computed in page.get("computed", []):
            output = functions.run(computed["function"], computed["input"])
            if output != computed["output"]:
                complaints.append(f"{path.stem}: {computed['function']} of {computed['input']} is {output}")
        checked += len(page["vectors"]) + len(page.get("computed", []))
    for complaint in complaints:
        print(complaint[:2_000], file=sys.stderr)
    print(f"{checked} vectors, {len(complaints)} disagreements")
    return 1 if complaints or not checked else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else PROTOCOLS))
