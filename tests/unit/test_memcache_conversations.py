"""What a server answers to each form of each command, whole, byte by byte, and with another request behind it."""

from __future__ import annotations

import pytest
from memcache_peer import FIRST_VERSION as V
from memcache_peer import NOW, Peer, server_of

from sfss.keys import hash_key
from sfss.memcache.service import WIRE_VERSION
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.stamps import stamp_at
from sfss.store import WIRE_VALUE_BYTES_MAX, checksum_of

VERSION = b"VERSION " + WIRE_VERSION.encode() + b"\r\n"
KEY_250 = b"k" * 250
KEY_251 = b"k" * 251
SUM_A = checksum_of(b"a", b"one", 5, 0, V, False)
STAMPED = V + 7
SUM_Z = checksum_of(b"z", b"zed", 3, 0, STAMPED, False)
SUM_Z_GONE = checksum_of(b"z", b"", 0, 0, STAMPED + 1, True)
RELATIVE = int(NOW) + 60
NOW_STAMP = stamp_at(NOW)

A = b"set a 5 0 3\r\none\r\n"  # the first write of a conversation: its version is V
N = b"set n 0 0 2\r\n41\r\n"

BOUND = b"sfss bind c1 1 f1\r\n"
OTHERS = tuple(Placement((RingMember(f"{node:032x}", f"n{node}:1"),), 1, 1, 1, 1) for node in (1, 2))


def block(record: RingRecord) -> bytes:
    line = record.encode()
    return b"%d\r\n%b\r\n" % (len(line), line)


JOINT_RING = RingRecord(2, 64, OTHERS)
SETTLED_RING = RingRecord(3, 64, OTHERS[1:])
JOINT, JOINT_FINGERPRINT = block(JOINT_RING), JOINT_RING.fingerprint.encode()
SETTLED, SETTLED_FINGERPRINT = block(SETTLED_RING), SETTLED_RING.fingerprint.encode()
PARTITION_OF_A = hash_key(b"a") >> (64 - 6)

NO_TREE = b"SERVER_ERROR not supported here: get @ asks for the hash tree, which nodes keep\r\n"

CONVERSATIONS = [
    # (what was said before, what is said, what is answered)
    (b"", b"set a 5 0 3\r\none\r\n", b"STORED\r\n"),
    (b"", b"set a 4294967295 0 3\r\none\r\n", b"STORED\r\n"),
    (b"", b"set a 5 0 3 noreply\r\none\r\n", b""),
    (b"", b"set a 5 0 0\r\n\r\n", b"STORED\r\n"),
    (b"", b"set a 5 0 4\r\n\r\n\r\n\r\n", b"STORED\r\n"),
    (b"", b"set " + KEY_250 + b" 0 0 1\r\nx\r\n", b"STORED\r\n"),
    (b"", "set ключ 0 0 1\r\nx\r\n".encode(), b"STORED\r\n"),
    (b"", b"set  a  5  0  3 \r\none\r\n", b"STORED\r\n"),
    (b"", b"set a 5 0 3\none\r\n", b"STORED\r\n"),
    (b"", b"get a\r\n", b"END\r\n"),
    (A, b"get a\r\n", b"VALUE a 5 3\r\none\r\nEND\r\n"),
    (A, b"get a\n", b"VALUE a 5 3\r\none\r\nEND\r\n"),
    (A, b"gets a\r\n", b"VALUE a 5 3 %d\r\none\r\nEND\r\n" % V),
    (A + N, b"get a x n\r\n", b"VALUE a 5 3\r\none\r\nVALUE n 0 2\r\n41\r\nEND\r\n"),
    (A, b"get ?a\r\n", None),
    (b"", b"get ?a\r\n", b"END\r\n"),
    (b"", b"get @0\r\n", NO_TREE),
    (b"", b"gets @\r\n", NO_TREE),
    (A, b"get a @0\r\n", b"VALUE a 5 3\r\none\r\n" + NO_TREE),
    (A, b"gat 60 a b\r\n", b"VALUE a 5 3\r\none\r\nEND\r\n"),
    (A, b"gats 60 a\r\n", b"VALUE a 5 3 %d\r\none\r\nEND\r\n" % (V + 1)),
    (A, b"touch a 60\r\n", b"TOUCHED\r\n"),
    (A, b"touch a 60 noreply\r\n", b""),
    (b"", b"touch a 60\r\n", b"NOT_FOUND\r\n"),
    (A, b"delete a\r\n", b"DELETED\r\n"),
    (A, b"delete a 0\r\n", b"DELETED\r\n"),
    (A, b"delete a noreply\r\n", b""),
    (b"", b"delete a\r\n", b"NOT_FOUND\r\n"),
    (b"", b"add a 0 0 1\r\nx\r\n", b"STORED\r\n"),
    (A, b"add a 0 0 1\r\nx\r\n", b"NOT_STORED\r\n"),
    (b"", b"replace a 0 0 1\r\nx\r\n", b"NOT_STORED\r\n"),
    (A, b"replace a 0 0 1\r\nx\r\n", b"STORED\r\n"),
    (A + b"append a 9 9 2\r\n!!\r\n", b"get a\r\n", b"VALUE a 5 5\r\none!!\r\nEND\r\n"),
    (A + b"prepend a 9 9 2\r\n!!\r\n", b"get a\r\n", b"VALUE a 5 5\r\n!!one\r\nEND\r\n"),
    (b"", b"append a 0 0 1\r\nx\r\n", b"NOT_STORED\r\n"),
    (A, b"cas a 1 0 3 %d\r\ntwo\r\n" % V, b"STORED\r\n"),
    (A, b"cas a 1 0 3 %d\r\ntwo\r\n" % (V + 1), b"EXISTS\r\n"),
    (b"", b"cas a 1 0 3 1\r\ntwo\r\n", b"NOT_FOUND\r\n"),
    (N, b"incr n 1\r\n", b"42\r\n"),
    (N, b"decr n 42\r\n", b"0\r\n"),
    (N, b"incr n 18446744073709551615\r\n", b"40\r\n"),
    (N, b"incr n 1 noreply\r\n", b""),
    (b"", b"incr n 1\r\n", b"NOT_FOUND\r\n"),
    (A, b"incr a 1\r\n", b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    (b"", b"version\r\n", VERSION),
    (b"", b"version foo bar\r\n", VERSION),
    (b"", b"verbosity 1\r\n", b"OK\r\n"),
    (b"", b"verbosity 1 noreply\r\n", b""),
    (b"", b"mn\r\n", b"MN\r\n"),
    (b"", b"stats reset\r\n", b"RESET\r\n"),
    (b"", b"stats items\r\n", b"END\r\n"),
    (b"", b"sfss identity\r\n", b"IDENTITY memory - 0 - 0 0 ok\r\n"),
    (b"", b"sfss bind c1 3 f1\r\n", b"IDENTITY memory c1 3 f1 0 0 ok\r\n"),
    (b"sfss bind c1 3 f1\r\n", b"sfss bind c2 4 f2\r\n", b"IDENTITY memory c1 3 f1 0 0 ok\r\n"),
    (A, b"sfss bind c1 3 f1\r\n", b"CLIENT_ERROR wrong cluster the node holds files and belongs to no cluster\r\n"),
    # sfss purge
    (BOUND, b"sfss purge 61 1 131072 65536\r\n", b"PURGED 1 131072 65536 %d\r\n" % NOW_STAMP),
    (BOUND + b"sfss purge 61 1 131072 65536\r\n", b"sfss purged 61\r\n", b"PURGED 1 131072 65536 %d\r\n" % NOW_STAMP),
    (BOUND + b"sfss purge 61 1 131072 65536\r\n", b"sfss purge 61 1 0 0\r\n", b"PURGED 1 0 65536 %d\r\n" % NOW_STAMP),
    (BOUND, b"sfss purged ff\r\n", b"PURGED 0 0 0 %d\r\n" % NOW_STAMP),
    (BOUND, b"sfss purged f\r\n", b"CLIENT_ERROR a region is named by two hex digits\r\n"),
    (BOUND, b"sfss purged FF\r\n", b"CLIENT_ERROR a region is named by two hex digits\r\n"),
    (BOUND, b"sfss purge 61 2 131072 65536\r\n", b"SERVER_ERROR stale ring 1\r\n"),
    (
        BOUND,
        b"sfss purge 61 1 1 2\r\n",
        b"CLIENT_ERROR a region is purged up to its fence at most, and that is no time to come\r\n",
    ),
    # sfss ring
    (b"", b"sfss ring\r\n", b"RING 0 - 0\r\n\r\n"),
    (BOUND, b"sfss ring\r\n", b"RING 1 f1 0\r\n\r\n"),
    (BOUND, b"sfss ring prepare 2 5\r\n", b"PROMISE 0 0\r\n\r\n"),
    (BOUND + b"sfss ring prepare 2 5\r\n", b"sfss ring prepare 2 5\r\n", b"NACK 5\r\n"),
    (BOUND + b"sfss ring prepare 2 5\r\n", b"sfss ring accept 2 4 " + JOINT, b"NACK 5\r\n"),
    (BOUND, b"sfss ring accept 2 5 " + JOINT, b"ACCEPTED\r\n"),
    (BOUND + b"sfss ring accept 2 5 " + JOINT, b"sfss ring prepare 2 6\r\n", b"PROMISE 5 " + JOINT),
    (BOUND, b"sfss ring prepare 3 5\r\n", b"SERVER_ERROR stale ring 1\r\n"),
    (BOUND, b"sfss ring learn " + JOINT, b"RING 2 %b " % JOINT_FINGERPRINT + JOINT),
    (BOUND + b"sfss ring learn " + JOINT, b"sfss ring\r\n", b"RING 2 %b " % JOINT_FINGERPRINT + JOINT),
    (BOUND + b"sfss ring learn " + SETTLED, b"sfss ring learn " + JOINT, b"RING 3 %b " % SETTLED_FINGERPRINT + SETTLED),
    (BOUND + b"sfss ring learn " + JOINT, b"sfss ring prepare 2 9\r\n", b"RING 2 %b " % JOINT_FINGERPRINT + JOINT),
    (BOUND + b"sfss ring learn " + JOINT, b"mg a Y G1\r\n", b"SERVER_ERROR stale ring 2\r\n"),
    (
        BOUND + A + b"sfss ring learn " + SETTLED,
        b"sfss ring left 3\r\n",
        b"IDENTITY memory c1 3 %b 0 0 ok\r\n" % SETTLED_FINGERPRINT,
    ),
    (BOUND + A + b"sfss ring learn " + SETTLED + b"sfss ring left 3\r\n", b"get a\r\n", b"END\r\n"),
    (BOUND + A + b"sfss ring learn " + SETTLED, b"sfss drop 3 %d\r\n" % PARTITION_OF_A, b"DROPPED 1\r\n"),
    (BOUND + A + b"sfss ring learn " + SETTLED, b"sfss drop 3 %d\r\n" % (PARTITION_OF_A ^ 1), b"DROPPED 0\r\n"),
    (BOUND + b"sfss ring learn " + SETTLED, b"sfss drop 2 0\r\n", b"SERVER_ERROR stale ring 3\r\n"),
    # mg
    (A, b"mg a\r\n", b"HD\r\n"),
    (A, b"mg a v\r\n", b"VA 3\r\none\r\n"),
    (A, b"mg a s v f t c k O7\r\n", b"VA 3 s3 f5 t-1 c%d ka O7\r\none\r\n" % V),
    (A, b"mg YQ== b k v\r\n", b"VA 3 kYQ== b\r\none\r\n"),
    (A, b"mg a h l u\r\n", b"HD h0 l0\r\n"),
    (A + b"mg a\r\n", b"mg a h l\r\n", b"HD h1 l0\r\n"),
    (A + b"touch a 60\r\n", b"mg a t A\r\n", b"HD t60 A%d\r\n" % RELATIVE),
    (A, b"mg a T60 t\r\n", b"HD t60\r\n"),
    (A, b"mg a q k\r\n", b"HD ka\r\n"),
    (b"", b"mg a v q\r\n", b""),
    (b"", b"mg a v k O1\r\n", b"EN ka O1\r\n"),
    (A, b"mg a V H A Y\r\n", b"HD V%d H%016x A0 Yv\r\n" % (V, SUM_A)),
    (A, b"mg a v s f A V H Y O1\r\n", b"VA 3 s3 f5 A0 V%d H%016x Yv O1\r\none\r\n" % (V, SUM_A)),
    (A, b"mg a v s f A V H U1000 O1.req\r\n", b"VA 3 s3 f5 A0 V%d H%016x O1.req\r\none\r\n" % (V, SUM_A)),
    (A, b"mg a s f A V H O1\r\n", b"HD s3 f5 A0 V%d H%016x O1\r\n" % (V, SUM_A)),
    (b"", b"mg a v s f A V H O1\r\n", b"EN O1\r\n"),
    (b"", b"mg a N30 t v\r\n", b"VA 0 t30 W\r\n\r\n"),
    (b"mg a N30\r\n", b"mg a N30 t v\r\n", b"VA 0 t30 Z\r\n\r\n"),
    (A + b"touch a 20\r\n", b"mg a R30 t\r\n", b"HD t20 W\r\n"),
    (A + b"touch a 20\r\nmg a R30\r\n", b"mg a R30 t\r\n", b"HD t20 Z\r\n"),
    (A + b"touch a 40\r\n", b"mg a R30 t\r\n", b"HD t40\r\n"),
    (A + b"md a I T30\r\n", b"mg a v t\r\n", b"VA 3 t30 X W\r\none\r\n"),
    (A + b"md a I\r\nmg a\r\n", b"mg a v\r\n", b"VA 3 Z X\r\none\r\n"),
    (A + b"md a I\r\nms a 3\r\ntwo\r\n", b"mg a v\r\n", b"VA 3\r\ntwo\r\n"),
    (A, b"mg a Lpath/ Phint\r\n", b"HD\r\n"),
    # ms
    (b"", b"ms a 3\r\none\r\n", b"HD\r\n"),
    (b"", b"ms a 3 c k O9 F5 T60\r\none\r\n", b"HD c%d ka O9\r\n" % V),
    (b"", b"ms a 3 q\r\none\r\n", b""),
    (b"", b"ms YQ== 3 b k s\r\none\r\n", b"HD kYQ== b s3\r\n"),
    (A, b"ms a 1 ME\r\nx\r\n", b"NS\r\n"),
    (A, b"ms a 1 ME q\r\nx\r\n", b"NS\r\n"),
    (b"", b"ms a 1 MR k\r\nx\r\n", b"NS ka\r\n"),
    (A + b"ms a 1 MA\r\n!\r\n", b"mg a v\r\n", b"VA 4\r\none!\r\n"),
    (A + b"ms a 1 MP\r\n!\r\n", b"mg a v\r\n", b"VA 4\r\n!one\r\n"),
    (b"", b"ms a 1 MA N30\r\nx\r\n", b"HD\r\n"),
    (A, b"ms a 3 C%d\r\ntwo\r\n" % V, b"HD\r\n"),
    (A, b"ms a 3 C1\r\ntwo\r\n", b"EX\r\n"),
    (b"", b"ms a 3 C1\r\ntwo\r\n", b"NF\r\n"),
    (A + b"ms a 3 C1 I\r\nold\r\n", b"mg a v\r\n", b"VA 3 X W\r\nold\r\n"),
    (b"", b"ms a 3 F5 A0 V H B O4\r\none\r\n", b"HD V%d H%016x B0/1 O4\r\n" % (V, SUM_A)),
    (b"", b"ms a 3 F5 A0 V H B Q O4\r\none\r\n", b"HD V%d H%016x B0/1 O4\r\n" % (V, SUM_A)),
    (b"", b"ms a 3 H F5 Q B V A0\r\none\r\n", b"HD H%016x B0/1 V%d\r\n" % (SUM_A, V)),
    (b"", b"ms a 3 H F5 B V A0\r\none\r\n", b"HD H%016x B0/1 V%d\r\n" % (SUM_A, V)),
    (
        b"",
        b"ms z 3 F3 A0 V%d H%016x B G0 U900 O5\r\nzed\r\n" % (STAMPED, SUM_Z),
        b"HD V%d H%016x B0/1 O5\r\n" % (STAMPED, SUM_Z),
    ),
    (
        b"ms z 3 F3 A0 V%d H%016x B\r\nzed\r\n" % (STAMPED, SUM_Z),
        b"ms z 3 B O5 F3 A0 V%d H%016x\r\nzed\r\n" % (STAMPED, SUM_Z),
        b"HD B0/1 O5 V%d H%016x\r\n" % (STAMPED, SUM_Z),
    ),
    (
        b"md z A0 V%d H%016x B\r\n" % (STAMPED + 1, SUM_Z_GONE),
        b"ms z 3 F3 A0 V%d H%016x B O5\r\nzed\r\n" % (STAMPED, SUM_Z),
        b"NS V%d H%016x B0/1 O5\r\n" % (STAMPED + 1, SUM_Z_GONE),
    ),
    (
        b"md z A0 V%d H%016x B\r\n" % (STAMPED + 1, SUM_Z_GONE),
        b"mg z v s f A V H Y O5\r\n",
        b"HD s0 f0 A0 V%d H%016x Yt O5\r\n" % (STAMPED + 1, SUM_Z_GONE),
    ),
    (
        b"",
        b"ms z 3 F3 A0 V%d H%016x B\r\nzee\r\n" % (STAMPED, SUM_Z),
        None,
    ),
    (b"", b"ms z 3 F3 A0 V%d H%016x B G4\r\nzed\r\n" % (STAMPED, SUM_Z), b"SERVER_ERROR stale ring 0\r\n"),
    # md
    (A, b"md a\r\n", b"HD\r\n"),
    (A, b"md a q\r\n", b""),
    (b"", b"md a q\r\n", b"NF\r\n"),
    (b"", b"md a k O3\r\n", b"NF ka O3\r\n"),
    (A, b"md a C1 k O5\r\n", b"EX ka O5\r\n"),
    (A, b"md a C%d\r\n" % V, b"HD\r\n"),
    (A + b"md a x\r\n", b"mg a v f\r\n", b"VA 0 f0\r\n\r\n"),
    (b"mg a N30\r\n", b"md a\r\n", b"HD\r\n"),
    (b"", b"md a V H B O3\r\n", b"NF O3\r\n"),
    (b"", b"md a V H B Q O3\r\n", b"NF O3\r\n"),
    (
        A,
        b"md a V H B O3\r\n",
        b"HD V%d H%016x B0/1 O3\r\n" % (V + 1, checksum_of(b"a", b"", 0, 0, V + 1, True)),
    ),
    # ma
    (b"", b"ma n\r\n", b"NF\r\n"),
    (b"", b"ma n N0 J13 v\r\n", b"VA 2\r\n13\r\n"),
    (N, b"ma n v t c k O3\r\n", b"VA 2 t-1 c%d kn O3\r\n42\r\n" % (V + 1)),
    (N, b"ma n D5 v\r\n", b"VA 2\r\n46\r\n"),
    (N, b"ma n MD D100 v\r\n", b"VA 1\r\n0\r\n"),
    (N, b"ma n M- v\r\n", b"VA 2\r\n40\r\n"),
    (N, b"ma n T99 t\r\n", b"HD t99\r\n"),
    (N, b"ma n q\r\n", b""),
    (N, b"ma n C1\r\n", b"EX\r\n"),
    # me
    (b"", b"me a\r\n", b"EN\r\n"),
    (A, b"me a\r\n", b"ME a exp=-1 la=0 cas=%d fetch=no cls=0 size=3 flags=5 checksum=%016x\r\n" % (V, SUM_A)),
    # expiry
    (b"set a 0 -1 1\r\nx\r\n", b"get a\r\n", b"END\r\n"),
    (b"set a 0 2592000 1\r\nx\r\n", b"mg a t\r\n", b"HD t2592000\r\n"),
    (b"set a 0 2592001 1\r\nx\r\n", b"get a\r\n", b"END\r\n"),
    (b"set a 0 %d 1\r\nx\r\n" % RELATIVE, b"mg a t A\r\n", b"HD t60 A%d\r\n" % RELATIVE),
    # Refusals after which the connection goes on in step
    (b"", b"\r\n", b"ERROR\r\n"),
    (b"", b"   \r\n", b"ERROR\r\n"),
    (b"", b"foo\r\n", b"ERROR\r\n"),
    (b"", b"shutdown\r\n", b"ERROR\r\n"),
    (b"", b"debugtime p\r\n", b"ERROR\r\n"),
    (b"", b"get\r\n", b"ERROR\r\n"),
    (b"", b"set a 0 0\r\n", b"ERROR\r\n"),
    (b"", b"incr a\r\n", b"ERROR\r\n"),
    (b"", b"stats noreply\r\n", b"ERROR\r\n"),
    (b"", b"stats nonsense\r\n", b"CLIENT_ERROR no stats on 'nonsense' here\r\n"),
    (b"", b"flush_all\r\n", b"CLIENT_ERROR flush_all not allowed\r\n"),
    (b"", b"get " + KEY_251 + b"\r\n", b"CLIENT_ERROR bad key: key of 251 bytes is longer than 250\r\n"),
    (b"", b"get a\x01b\r\n", b"CLIENT_ERROR bad key: key holds a blank or a control character\r\n"),
    (b"", b"get a\x7fb\r\n", b"CLIENT_ERROR bad key: key holds a blank or a control character\r\n"),
    (b"", b"get a\tb\r\n", b"CLIENT_ERROR bad key: key holds a blank or a control character\r\n"),
    (
        b"",
        b"set " + KEY_251 + b" 0 0 9\r\nget a\r\n\r\n\r\n",
        b"CLIENT_ERROR bad key: key of 251 bytes is longer than 250\r\n",
    ),
    (b"", b"set a x 0 3\r\none\r\n", b"CLIENT_ERROR bad command line format\r\n"),
    (b"", b"set a -1 0 3\r\none\r\n", b"CLIENT_ERROR bad command line format\r\n"),
    (b"", b"set a 4294967296 0 3\r\none\r\n", b"CLIENT_ERROR bad command line format\r\n"),
    (b"", b"set a 0 x 3\r\none\r\n", b"CLIENT_ERROR invalid exptime argument\r\n"),
    (b"", b"set a 0 0 3 again\r\none\r\n", b"CLIENT_ERROR bad command line format\r\n"),
    (b"", b"set a 0 0 -3\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
    (b"", b"set a 0 0 +3\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
    (b"", b"set a 0 0 0x3\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
    (b"", b"set ?a 0 0 3\r\none\r\n", b"CLIENT_ERROR bad key: keys that begin with ? are reserved\r\n"),
    (b"", b"set @a 0 0 3\r\none\r\n", b"CLIENT_ERROR bad key: keys that begin with @ are reserved\r\n"),
    (b"", b"ms ?a 3\r\none\r\n", b"CLIENT_ERROR bad key: keys that begin with ? are reserved\r\n"),
    (b"", b"ms PzE= 3 b\r\none\r\n", b"CLIENT_ERROR bad key: keys that begin with ? are reserved\r\n"),
    (b"", b"md @a V H B O3\r\n", b"CLIENT_ERROR bad key: keys that begin with @ are reserved\r\n"),
    (b"", b"mg a z\r\n", b"CLIENT_ERROR invalid flag\r\n"),
    (b"", b"mg a v v\r\n", b"CLIENT_ERROR duplicate flag\r\n"),
    (b"", b"mg a Tx\r\n", b"CLIENT_ERROR bad token in command line format\r\n"),
    (b"", b"mg a O" + b"x" * 33 + b"\r\n", b"CLIENT_ERROR opaque token too long\r\n"),
    (b"", b"mg !!! b\r\n", b"CLIENT_ERROR error decoding key\r\n"),
    (b"", b"mg AAEC b\r\n", None),
    (b"", b"ms a 3 Hxyz V1\r\none\r\n", b"CLIENT_ERROR bad token in command line format\r\n"),
    (b"", b"ms a 3 V1\r\none\r\n", None),
    (b"", b"ms a 3 MX\r\none\r\n", None),
    (b"", b"mg a v s f A V H U0 O1\r\n", b"SERVER_ERROR deadline expired\r\n"),
    (b"", b"ms a 3 F0 A0 V H B U0 O1\r\none\r\n", b"SERVER_ERROR deadline expired\r\n"),
    (b"", b"sfss\r\n", None),
    (b"", b"sfss bind a b\r\n", None),
    (b"", b"sfss recall n1 7 word\r\n", None),
    (
        b"",
        b"sfss witness 13\r\nn1 7 w 5 a:1\n\r\n",
        b"SERVER_ERROR not supported here: only nodes keep others in mind\r\n",
    ),
    (b"", b"sfss recall n1 7 word 5\r\n", b"SERVER_ERROR not supported here: only nodes are refilled\r\n"),
    (
        b"",
        b"sfss recall n1 100000000000000001 word 5\r\n",
        b"CLIENT_ERROR no node was started so often; the limit of an epoch is 100000000000000000\r\n",
    ),
    (
        b"",
        b"sfss recall n1 7 word 1000000000000000000\r\n",
        b"CLIENT_ERROR no node has so much on disk; the limit of a position is 999999999999999999\r\n",
    ),
    (b"", b"sfss adopt c1 1 f1 n1\r\n", b"CLIENT_ERROR a node id is 32 hex digits\r\n"),
    (b"", b"sfss ring learned\r\n", None),
    (b"", b"sfss ring prepare 2\r\n", None),
    (b"", b"sfss ring prepare 2 5\r\n", b"CLIENT_ERROR wrong cluster the node belongs to no cluster\r\n"),
    (BOUND, b"sfss ring prepare 2 0\r\n", b"CLIENT_ERROR ballots begin at 1\r\n"),
    (BOUND, b"sfss ring prepare 2 9223372036854775808\r\n", b"CLIENT_ERROR no ballot\r\n"),
    (BOUND, b"sfss ring prepare x 5\r\n", b"CLIENT_ERROR no number of a ring\r\n"),
    (BOUND, b"sfss ring accept x 5 " + JOINT, b"CLIENT_ERROR no number of a ring\r\n"),
    (BOUND, b"sfss ring accept 3 5 " + JOINT, b"CLIENT_ERROR this is ring 2\r\n"),
    (BOUND, b"sfss ring learn 5\r\nabcde\r\n", None),
    (BOUND, b"sfss ring learn x\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
    (BOUND, b"sfss ring left 1\r\n", None),
    (BOUND, b"sfss drop 1 0\r\n", None),
    (BOUND + b"sfss ring learn " + SETTLED, b"sfss drop 3 64\r\n", None),
    (BOUND + b"sfss ring learn " + JOINT, b"sfss drop 2 0\r\n", None),
]


@pytest.mark.parametrize("piece_bytes", [0, 1, 7])
@pytest.mark.parametrize(("before", "said", "answered"), CONVERSATIONS)
async def test_a_request_gets_its_answer_in_whatever_pieces_it_arrives(
    before: bytes, said: bytes, answered: bytes | None, piece_bytes: int
) -> None:
    peer = Peer(server_of())
    if before:
        peer.say(before)

    answer = peer.say(said, piece_bytes)

    if answered is not None:
        assert answer == answered
    else:
        assert answer.startswith((b"CLIENT_ERROR ", b"VALUE ?a 0 "))
        assert answer.endswith(b"\r\n")
    assert not peer.closed


@pytest.mark.parametrize(("before", "said", "answered"), CONVERSATIONS)
async def test_the_connection_is_in_step_after_every_request(
    before: bytes, said: bytes, answered: bytes | None
) -> None:
    peer = Peer(server_of())
    if before:
        peer.say(before)
    alone = Peer(server_of())
    if before:
        alone.say(before)

    answer = peer.say(said + b"version\r\n")

    assert answer == alone.say(said) + VERSION
    assert not peer.connection.inside_command


CLOSING = [
    (b"set a 0 0 3\r\nonetwo\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
    (b"set a 0 0 3\r\none\rX", b"CLIENT_ERROR bad data chunk\r\n"),
    (b"ms a 3\r\nonetwo\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
    (b"x" * 2049 + b"\r\n", b"CLIENT_ERROR line too long\r\n"),
    (b"set " + b"a" * 2100, b"CLIENT_ERROR line too long\r\n"),
    (b"get " + b"a " * 32768 + b"\r\n", b"CLIENT_ERROR line too long\r\n"),
    (b"get " + b"a " * 33000, b"CLIENT_ERROR line too long\r\n"),
    (b"set a 0 0 67108865\r\n", b"SERVER_ERROR object too large for cache\r\n"),
    (b"set a 0 0 18446744073709551616\r\n", None),
    (b"quit\r\n", b""),
]


@pytest.mark.parametrize("piece_bytes", [0, 1, 1000])
@pytest.mark.parametrize("trailing", [b"", b"version\r\n"])
@pytest.mark.parametrize(("said", "answered"), CLOSING)
async def test_where_it_cant_be_in_step_the_connection_closes_after_saying_why(
    said: bytes, answered: bytes | None, piece_bytes: int, trailing: bytes
) -> None:
    peer = Peer(server_of())

    answer = peer.say(said + trailing, piece_bytes)

    if answered is not None:
        assert answer == answered
    assert peer.ended
    assert VERSION not in answer


@pytest.mark.parametrize("piece_bytes", [0, 1])
@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /a HTTP/1.0\r\nContent-Length: 20\r\n\r\nset a 0 0 1\r\nx\r\n",
        b"PUT / HTTP/1.1\r\n\r\n",
        b"HEAD / HTTP/1.1\r\n\r\n",
        b"DELETE / HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x80\x0b" + bytes(22),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    ],
)
async def test_what_isnt_memcache_is_closed_without_a_word(said: bytes, piece_bytes: int) -> None:
    peer = Peer(server_of())

    assert peer.say(said, piece_bytes) == b""
    assert peer.closed


async def test_a_value_over_the_limit_is_swallowed_unbuffered_and_the_next_request_served() -> None:
    server = server_of()
    peer = Peer(server)
    size = WIRE_VALUE_BYTES_MAX + 1

    assert peer.say(b"set a 0 0 %d\r\n" % size) == b"SERVER_ERROR object too large for cache\r\n"
    for _ in range(0, size, 65536):
        peer.say(b"x" * 65536)
        assert server.bytes_held == 0
        assert peer.connection._parser.waiting == 0
    peer = Peer(server)
    body = b"set a 0 0 %d\r\n" % size + b"x" * size + b"\r\n"
    assert peer.say(body + b"get a\r\n") == b"SERVER_ERROR object too large for cache\r\nEND\r\n"


async def test_the_largest_value_is_stored_and_comes_back() -> None:
    peer = Peer(server_of())
    value = bytes(range(256)) * (WIRE_VALUE_BYTES_MAX // 256)

    assert peer.say(b"set a 0 0 %d\r\n%b\r\n" % (len(value), value), 60_000) == b"STORED\r\n"
    assert peer.say(b"get a\r\n") == b"VALUE a 0 %d\r\n%b\r\nEND\r\n" % (len(value), value)


async def test_flush_all_works_where_it_is_allowed() -> None:
    peer = Peer(server_of(allow_flush=True))

    assert peer.say(A + b"flush_all\r\nget a\r\n") == b"STORED\r\nOK\r\nEND\r\n"
    assert peer.say(A + b"flush_all noreply\r\nget a\r\n") == b"STORED\r\nEND\r\n"
    assert peer.say(b"flush_all 0\r\n") == b"OK\r\n"
    assert peer.say(b"flush_all 1 2\r\n").startswith(b"CLIENT_ERROR")


async def test_stats_have_the_18_names_and_a_trailing_blank_is_accepted() -> None:
    peer = Peer(server_of())
    peer.say(A + b"get a\r\nget b\r\ndelete a\r\n")

    lines = peer.say(b"stats \r\n").decode().split("\r\n")

    assert lines[-2:] == ["END", ""]
    figures = dict(line.removeprefix("STAT ").split(" ", 1) for line in lines[:-2])
    names = (
        "total_items curr_items rusage_user rusage_system rusage_maxrss curr_connections total_connections cmd_get "
        "cmd_set cmd_delete get_hits get_misses bytes_read bytes_written time pid uptime threads"
    )
    assert set(names.split()) <= set(figures)
    assert (figures["cmd_get"], figures["get_hits"], figures["get_misses"]) == ("2", "1", "1")
    assert (figures["cmd_set"], figures["cmd_delete"], figures["curr_items"]) == ("1", "1", "0")
    assert int(figures["bytes_read"]) > 0


async def test_stats_settings_tell_the_limits() -> None:
    peer = Peer(server_of())

    assert b"STAT connections_max 1024\r\n" in peer.say(b"stats settings\r\n")
