"""How a cluster is founded, who may belong to it, and what a start refuses."""

import asyncio
from dataclasses import replace

import pytest

from proxy.cluster import ClusterConfig, NodeAddress, open_cluster
from proxy.options import Options
from sfss.errors import QuorumUnavailable, SetupError, Unreachable, Unsupported, WrongCluster
from sfss.memory import MemoryStore
from sfss.promise import Promise, new_promise, promised
from sfss.ring import Member, NodeRing
from sfss.sightings import later_of
from sfss.store import Seen, settled
from tests.unit.virtual_time import in_virtual_time

KEY = b"some/file"


class Node:
    """A node as the network has it: a store, whether it can be reached, and the connections that were greeted."""

    def __init__(self, name):
        self.name = name
        self.store = MemoryStore(node=name, durable=True)
        self.up = True
        self.silent = False
        self.state = "ok"
        self.appended = 0
        self.start = ""
        self.epoch = 0
        self.told = []
        self.id = ""
        self.refuses = ""
        self.others = {}

    def identity(self):
        position = self.appended + len(self.store.records)
        told = replace(self.store.identify(), position=position, state=self.state, epoch=self.epoch, start=self.start)
        return replace(told, node=self.id) if self.id else told

    def wipe(self):
        self.store = MemoryStore(node=self.name + "-new", durable=True)

    def begin(self, start, epoch):
        """As after a start; whoever is connected finds out."""
        self.start = start
        self.epoch = epoch

    def recall(self, seen):
        self.told.append(seen)
        if seen.epoch > self.epoch or (seen.epoch == self.epoch and seen.start != self.start):
            self.state = "suspect"
            self.begin("after", max(seen.epoch, self.epoch) + 1)
        return self.identity()

    def witness(self, told):
        self.others |= later_of(self.others, told)
        return tuple(self.others.values())

    def adopt(self, cluster, ring, fingerprint, node):
        if self.refuses:
            raise WrongCluster(self.refuses)
        if not self.store.identify().cluster:
            self.store.bind(cluster, ring, fingerprint)
            self.id = node
            self.state = "suspect"
        return self.identity()


class Client:
    """A connection to a node; greets on its first use and on the first after an outage, as the real one does."""

    def __init__(self, node, greet, last_seen):
        self._node = node
        self._greet = greet
        self._last_seen = last_seen
        self._greeted = False
        self.closed = False

    def _reach(self):
        if not self._node.up:
            self._greeted = False
            raise Unreachable(f"{self._node.name}: refused")
        if not self._greeted:
            seen = self._last_seen()
            self._greet(self._node.identity() if seen is None else self._node.recall(seen))
            self._greeted = True
        return self._node.store

    def identify(self):
        if self._node.silent:
            return new_promise()
        self._reach()
        return self._node.identity()

    def bind(self, cluster, ring, fingerprint):
        reply = self._reach().bind(cluster, ring, fingerprint)
        return reply if isinstance(reply, Promise) else self._node.identity()

    def hashes_held(self, prefix, call=None):
        raise Unsupported("no tree here")

    def trust(self, epoch):
        raise Unsupported("no tree here")

    def recall(self, seen):
        self._reach()
        return self._node.recall(seen)

    def witness(self, told):
        self._reach()
        return self._node.witness(told)

    def adopt(self, cluster, ring, fingerprint, node):
        self._reach()
        return self._node.adopt(cluster, ring, fingerprint, node)

    def read(self, key, call=None):
        return self._reach().read(key)

    def inspect(self, key, call=None):
        return self._reach().inspect(key)

    def apply(self, key, record, call=None):
        return self._reach().apply(key, record)

    def stats(self, topic="", call=None):
        return self._reach().stats(topic)

    async def close(self):
        self.closed = True


class Network:
    """Nodes by port."""

    def __init__(self, count=3):
        self.nodes = {7900 + index: Node(f"n{index}") for index in range(count)}
        self.clients = []

    def connect(self, address, greet, last_seen):
        client = Client(self.nodes[address.port], greet, last_seen)
        self.clients.append(client)
        return client

    def config(self, **settings):
        addresses = settings.pop("addresses", None) or tuple(NodeAddress("localhost", port) for port in self.nodes)
        settings.setdefault("partitions", 16)
        settings.setdefault("founding_s", 2.0)
        return ClusterConfig(addresses, options=Options(probe_s_min=0.05, probe_s_max=0.2), **settings)

    async def open(self, **settings):
        return await open_cluster(self.config(**settings), connect=self.connect)


async def found(network, **settings):
    """Found a cluster and put a file into it."""
    cluster = await network.open(**settings)
    await settled(cluster.coordinator.set(KEY, b"there"))
    await cluster.close()


@in_virtual_time
async def test_a_new_cluster_binds_all_nodes_to_one_id_and_ring():
    network = Network()

    cluster = await network.open()

    identities = [node.store.identify() for node in network.nodes.values()]
    assert len({identity.cluster for identity in identities}) == 1
    assert {identity.fingerprint for identity in identities} == {cluster.coordinator.placed.fingerprint}
    assert identities[0].cluster
    await cluster.close()


@in_virtual_time
async def test_two_coordinators_that_start_together_found_one_cluster():
    network = Network()

    first, second = await asyncio.gather(network.open(), network.open())

    assert len({node.store.identify().cluster for node in network.nodes.values()}) == 1
    await first.close()
    await second.close()


@in_virtual_time
async def test_a_new_cluster_waits_for_all_its_nodes():
    network = Network()
    network.nodes[7902].up = False
    opening = asyncio.ensure_future(network.open())
    await asyncio.sleep(1)
    assert not opening.done()

    network.nodes[7902].up = True
    cluster = await opening

    assert network.nodes[7902].store.identify().cluster
    await cluster.close()


@in_virtual_time
async def test_a_new_cluster_that_lacks_a_node_is_refused_after_a_while_in_one_line():
    network = Network()
    network.nodes[7902].up = False

    with pytest.raises(
        SetupError, match="2 of 3 nodes answer, and a new cluster is founded with all of them"
    ) as refused:
        await network.open()

    assert "\n" not in str(refused.value)
    assert all(not node.store.identify().cluster for node in network.nodes.values())
    assert all(client.closed for client in network.clients)


@in_virtual_time
async def test_a_node_that_says_nothing_holds_up_a_founding_no_longer_than_one_that_is_away(caplog):
    caplog.set_level("INFO")
    network = Network()
    network.nodes[7902].silent = True
    loop = asyncio.get_running_loop()
    began = loop.time()

    with pytest.raises(SetupError, match="2 of 3 nodes answer"):
        await network.open(founding_s=10.0)

    assert 10 <= loop.time() - began < 13
    assert [record.message for record in caplog.records] == ["waiting for nodes: localhost:7902: no answer in 1.0 s"]


@in_virtual_time
async def test_a_founding_that_was_cut_short_is_taken_up_again(tmp_path):
    network = Network()
    cluster = await network.open(state=tmp_path)
    await cluster.close()
    for port in (7901, 7902):
        network.nodes[port].store = MemoryStore(node=f"n{port - 7900}", durable=True)
    (tmp_path / "state").unlink()

    cluster = await network.open(state=tmp_path)

    assert len({node.store.identify().cluster for node in network.nodes.values()}) == 1
    await cluster.close()


@in_virtual_time
async def test_a_node_that_has_had_files_before_is_not_taken_in():
    # Once bound it would look like one of a cluster in use, and to a second coordinator the next ones to be bound
    # would look wiped.
    network = Network()
    network.nodes[7900].appended = 4096

    results = await asyncio.gather(network.open(), network.open(), return_exceptions=True)

    assert [type(result) for result in results] == [SetupError, SetupError]
    assert "localhost:7900 has had files of no cluster; give it an empty data directory" in str(results[0])
    assert all(not node.store.identify().cluster for node in network.nodes.values())


@in_virtual_time
async def test_a_founding_waits_until_every_binding_is_on_disk_its_own_or_not():
    network = Network()
    slow = network.nodes[7901].store
    on_disk = new_promise()

    async def bind_slowly(cluster, ring, fingerprint):
        identity = MemoryStore.bind(slow, cluster, ring, fingerprint)
        await on_disk
        return identity

    slow.bind = lambda *terms: promised(asyncio.ensure_future(bind_slowly(*terms)))
    opening = [asyncio.ensure_future(network.open())]
    await asyncio.sleep(0.5)
    assert slow.identify().cluster
    opening.append(asyncio.ensure_future(network.open()))
    await asyncio.sleep(0.5)
    assert not any(each.done() for each in opening)

    on_disk.set_result(None)

    for cluster in await asyncio.gather(*opening):
        await cluster.close()


@in_virtual_time
async def test_a_founded_cluster_is_served_with_a_node_down():
    network = Network()
    await found(network)
    network.nodes[7901].up = False

    cluster = await network.open()

    assert (await settled(cluster.coordinator.get(KEY))).value == b"there"
    assert (await settled(cluster.coordinator.set(KEY, b"new"))).durable == 2
    await cluster.close()


@in_virtual_time
async def test_a_remembered_cluster_is_served_with_a_node_down_even_if_it_is_empty(tmp_path):
    network = Network()
    await (await network.open(state=tmp_path)).close()
    network.nodes[7901].up = False

    cluster = await network.open(state=tmp_path)

    assert await settled(cluster.coordinator.get(KEY)) is None
    await cluster.close()


@in_virtual_time
async def test_a_node_that_was_down_at_start_serves_when_it_comes():
    network = Network()
    await found(network)
    network.nodes[7901].up = False
    cluster = await network.open()
    assert not cluster.coordinator.health.well

    network.nodes[7901].up = True
    await asyncio.sleep(1)

    assert cluster.coordinator.health.well
    assert (await settled(cluster.coordinator.set(KEY, b"new"))).durable == 3
    await cluster.close()


@in_virtual_time
async def test_a_node_of_another_cluster_that_comes_later_is_left_alone():
    network, other = Network(), Network()
    await found(network)
    await found(other)
    network.nodes[7901].up = False
    cluster = await network.open()

    network.nodes[7901].store = other.nodes[7901].store
    network.nodes[7901].up = True
    await asyncio.sleep(1)

    peer = next(peer for peer in cluster.coordinator.placed.peers if peer.name == "localhost:7901")
    assert peer.down
    assert "belongs to cluster" in peer.error
    await cluster.close()


@in_virtual_time
async def test_a_node_of_another_cluster_is_refused_at_start():
    network, other = Network(), Network()
    await found(network)
    await found(other)
    network.nodes[7901].store = other.nodes[7901].store

    with pytest.raises(SetupError, match=r"node localhost:790\d belongs to cluster"):
        await network.open()


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2, "w": 2},
        {"partitions": 32},
        {"addresses": (NodeAddress("localhost", 7900), NodeAddress("localhost", 7901))},
        {"addresses": tuple(NodeAddress("localhost", port, weight=port - 7899) for port in (7900, 7901, 7902))},
        {"addresses": tuple(NodeAddress("localhost", port, zone=str(port)) for port in (7900, 7901, 7902))},
    ],
    ids=["copies", "partitions", "nodes", "weights", "zones"],
)
@in_virtual_time
async def test_another_ring_over_existing_files_is_refused_in_one_line(change):
    network = Network()
    await found(network)

    with pytest.raises(SetupError, match="was bound to another ring") as refused:
        await network.open(**change)

    assert "\n" not in str(refused.value)


def on_two_machines(zones):
    return tuple(NodeAddress("aabb"[index], 7900 + index, zone) for index, zone in enumerate(zones))


@in_virtual_time
async def test_nodes_that_share_machines_beside_others_are_founded_only_with_zones():
    network = Network(4)

    with pytest.raises(SetupError, match=r"some nodes share a machine.*zones = a,a,b,b,c"):
        await found(network, addresses=on_two_machines(["", "", "", ""]), n=2)
    assert not any(node.store.identify().cluster for node in network.nodes.values())

    await found(network, addresses=on_two_machines("aabb"), n=2)


@in_virtual_time
async def test_a_cluster_founded_without_zones_on_shared_machines_is_served_on():
    network = Network(4)
    addresses = on_two_machines(["", "", "", ""])
    ring = NodeRing([Member(address.ring_name) for address in addresses], 2, partitions=16)
    for node in network.nodes.values():
        node.store.bind("c" * 32, 1, ring.fingerprint)

    await found(network, addresses=addresses, n=2)


@in_virtual_time
async def test_nodes_in_another_order_or_by_another_name_of_this_machine_are_the_same_ring():
    network = Network()
    await found(network)
    addresses = (NodeAddress("127.0.0.1", 7902), NodeAddress("::1", 7900), NodeAddress("localhost", 7901))

    cluster = await network.open(addresses=addresses)

    assert (await settled(cluster.coordinator.get(KEY))).value == b"there"
    await cluster.close()


@in_virtual_time
async def test_two_addresses_of_one_node_are_refused():
    network = Network()
    network.nodes[7901].store = network.nodes[7900].store

    with pytest.raises(SetupError, match="are one and the same node"):
        await network.open()


@in_virtual_time
async def test_a_node_named_twice_is_refused():
    network = Network()

    with pytest.raises(SetupError, match="localhost:7900 is named twice"):
        await network.open(addresses=(NodeAddress("localhost", 7900), NodeAddress("127.0.0.1", 7900)))


@in_virtual_time
async def test_nodes_that_changed_places_are_refused_where_that_is_remembered(tmp_path):
    network = Network()
    await found(network, state=tmp_path)
    one, other = network.nodes[7900], network.nodes[7901]
    one.store, other.store = other.store, one.store

    with pytest.raises(SetupError, match="there was node n"):
        await network.open(state=tmp_path)


@in_virtual_time
async def test_a_wiped_node_that_nobody_remembers_is_left_alone_and_the_others_serve():
    network = Network()
    await found(network)
    network.nodes[7901].wipe()

    cluster = await network.open()

    assert (await settled(cluster.coordinator.get(KEY))).value == b"there"
    peer = next(peer for peer in cluster.coordinator.placed.peers if peer.name == "localhost:7901")
    assert peer.down
    assert peer.error.endswith("nobody here knows which node it was (docs/operations.rst)")
    assert network.nodes[7901].store.records == {}
    await cluster.close()


@in_virtual_time
async def test_a_node_wiped_while_others_serve_is_not_taken_back_as_a_member_that_knows_of_no_files():
    network = Network()
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    network.nodes[7901].up = False
    await settled(cluster.coordinator.set(KEY, b"new"))
    network.nodes[7901].wipe()
    network.nodes[7901].up = True
    await asyncio.sleep(1)

    for _ in range(10):
        assert (await settled(cluster.coordinator.get(KEY))).value == b"new"
    assert network.nodes[7901].store.records == {}
    await cluster.close()


@in_virtual_time
async def test_what_one_coordinator_saw_the_nodes_tell_another_that_remembers_nothing():
    network = Network()
    for node in network.nodes.values():
        node.begin("first", 7)
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    await asyncio.sleep(5)
    await cluster.close()
    network.nodes[7901].begin("copy", 7)

    cluster = await network.open()

    assert peer_at(cluster, 7901).suspect
    assert network.nodes[7901].epoch == 8
    await asyncio.sleep(5)
    assert network.nodes[7900].others["n1"].epoch == 8
    await cluster.close()


@in_virtual_time
async def test_a_start_that_witnesses_know_is_judged_though_the_copy_has_a_later_one():
    network = Network()
    for node in network.nodes.values():
        node.begin("first", 7)
    await found(network)
    for port in (7900, 7902):
        network.nodes[port].witness([Seen("n1", 7, "first", 1, "localhost:7901")])
    network.nodes[7901].begin("copy", 12)

    cluster = await network.open()

    assert Seen("n1", 7, "first", 1, "localhost:7901") in network.nodes[7901].told
    await cluster.close()


@in_virtual_time
async def test_a_running_coordinator_hears_of_what_another_saw():
    network = Network()
    for node in network.nodes.values():
        node.begin("first", 7)
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    network.nodes[7902].witness([Seen("n1", 9, "later", 1, "localhost:7901")])

    await asyncio.sleep(70)

    assert peer_at(cluster, 7901).suspect
    assert network.nodes[7901].epoch == 10
    await cluster.close()


@in_virtual_time
async def test_a_coordinator_that_remembers_nothing_hears_which_place_an_empty_node_is_to_take():
    network = Network()
    for node in network.nodes.values():
        node.begin("first", 7)
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    await asyncio.sleep(5)
    await cluster.close()
    network.nodes[7901].wipe()

    cluster = await network.open()
    await asyncio.sleep(5)

    assert network.nodes[7901].identity().node == "n1"
    assert peer_at(cluster, 7901).suspect
    await cluster.close()


def peer_at(cluster, port):
    return next(peer for peer in cluster.coordinator.placed.peers if peer.name == f"localhost:{port}")


@in_virtual_time
async def test_what_was_seen_of_a_node_is_told_to_it_with_each_new_connection_and_after_a_restart(tmp_path):
    network = Network()
    node = network.nodes[7901]
    node.begin("first", 7)
    cluster = await network.open(state=tmp_path)
    await settled(cluster.coordinator.set(KEY, b"there"))
    assert node.told == []
    cluster.coordinator.health.identified(peer_at(cluster, 7901), node.identity())
    await cluster.close()

    cluster = await network.open(state=tmp_path)

    assert set(node.told) == {Seen("n1", 7, "first", 1, "localhost:7901")}
    assert cluster.coordinator.health.well
    await cluster.close()


@in_virtual_time
async def test_a_node_that_went_back_is_suspect_and_keeps_no_coordinator_from_starting(tmp_path):
    network = Network()
    for node in network.nodes.values():
        node.begin("first", 7)
    await found(network, state=tmp_path)
    network.nodes[7901].begin("copy", 5)

    cluster = await network.open(state=tmp_path)

    assert peer_at(cluster, 7901).suspect
    assert network.nodes[7901].epoch == 8
    assert (await settled(cluster.coordinator.set(KEY, b"new"))).durable == 2
    await cluster.close()


@in_virtual_time
async def test_a_node_that_goes_back_while_a_coordinator_runs_is_suspect_before_it_is_asked_for_anything():
    network = Network()
    node = network.nodes[7901]
    node.begin("first", 7)
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    node.up = False
    await settled(cluster.coordinator.set(KEY, b"new"))

    node.begin("copy", 7)
    node.up = True
    await asyncio.sleep(1)

    assert node.told
    assert peer_at(cluster, 7901).suspect
    assert (await settled(cluster.coordinator.get(KEY))).value == b"new"
    await cluster.close()


@in_virtual_time
async def test_an_empty_node_takes_the_place_of_the_one_that_was_there_and_counts_for_nothing_yet():
    network = Network()
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    network.nodes[7901].up = False
    await settled(cluster.coordinator.set(KEY, b"new"))

    network.nodes[7901].wipe()
    network.nodes[7901].up = True
    await asyncio.sleep(3)

    peer = peer_at(cluster, 7901)
    assert network.nodes[7901].identity().node == "n1"
    assert (peer.down, peer.suspect) == (False, True)
    assert (await settled(cluster.coordinator.get(KEY))).value == b"new"
    assert (await settled(cluster.coordinator.stats()))["adopted_nodes"] == "1"
    await cluster.close()


@in_virtual_time
async def test_a_coordinator_knows_by_its_state_which_place_an_empty_node_is_to_take(tmp_path):
    network = Network()
    await found(network, state=tmp_path)
    network.nodes[7901].wipe()

    cluster = await network.open(state=tmp_path)
    await asyncio.sleep(3)

    assert network.nodes[7901].identity().node == "n1"
    assert peer_at(cluster, 7901).suspect
    await cluster.close()


@in_virtual_time
async def test_an_empty_node_that_can_not_take_its_place_is_left_alone_and_says_why_until_it_can():
    network = Network()
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    network.nodes[7901].up = False
    await settled(cluster.coordinator.set(KEY, b"new"))
    network.nodes[7901].wipe()
    network.nodes[7901].refuses = "its disk is full"
    network.nodes[7901].up = True
    await asyncio.sleep(5)

    peer = peer_at(cluster, 7901)
    assert peer.down
    assert peer.error.endswith("it can't take the place of node n1 yet: its disk is full")

    network.nodes[7901].refuses = ""
    await asyncio.sleep(5)

    assert (peer.down, peer.suspect) == (False, True)
    await cluster.close()


@in_virtual_time
async def test_an_empty_node_takes_its_place_only_once_the_others_can_refill_it():
    """Were two disks of three not mounted, both would be old copies later, and the third alone doesn't know enough."""
    network = Network()
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    for port in (7901, 7902):
        network.nodes[port].up = False
    with pytest.raises(QuorumUnavailable):
        await settled(cluster.coordinator.get(KEY))
    network.nodes[7901].wipe()
    network.nodes[7901].up = True
    await asyncio.sleep(5)

    assert network.nodes[7901].identity().cluster == ""
    assert peer_at(cluster, 7901).error.endswith(
        "it can't take the place of node n1 yet: what it had can't be known without localhost:7902"
    )

    network.nodes[7902].up = True
    await asyncio.sleep(5)

    assert peer_at(cluster, 7901).suspect
    await cluster.close()


@in_virtual_time
async def test_a_node_with_files_of_no_cluster_takes_nobodys_place():
    network = Network()
    cluster = await network.open()
    await settled(cluster.coordinator.set(KEY, b"there"))
    network.nodes[7901].up = False
    await settled(cluster.coordinator.set(KEY, b"new"))
    network.nodes[7901].wipe()
    network.nodes[7901].appended = 4096
    network.nodes[7901].up = True
    await asyncio.sleep(5)

    assert network.nodes[7901].identity().cluster == ""
    assert peer_at(cluster, 7901).error.endswith("it has had files of no cluster; give it an empty data directory")
    await cluster.close()


@in_virtual_time
async def test_a_node_that_says_it_lost_data_counts_for_no_quorum_until_it_says_otherwise():
    network = Network()
    await found(network)
    network.nodes[7901].state = "suspect"
    cluster = await network.open()
    assert (await settled(cluster.coordinator.set(KEY, b"new"))).durable == 2

    network.nodes[7901].state = "ok"
    await asyncio.sleep(1)

    assert (await settled(cluster.coordinator.set(KEY, b"new"))).durable == 3
    await cluster.close()


@in_virtual_time
async def test_nodes_wiped_all_at_once_are_not_founded_anew_behind_a_remembered_cluster(tmp_path):
    network = Network()
    await found(network, state=tmp_path)
    for node in network.nodes.values():
        node.wipe()

    with pytest.raises(SetupError, match="is remembered, but"):
        await network.open(state=tmp_path)


@in_virtual_time
async def test_a_wiped_node_that_is_there_before_the_others_is_not_taken_for_all_of_them(tmp_path):
    network = Network()
    await found(network, state=tmp_path)
    network.nodes[7900].wipe()
    network.nodes[7901].up = network.nodes[7902].up = False
    opening = asyncio.ensure_future(network.open(state=tmp_path))
    await asyncio.sleep(1)
    assert not opening.done()

    network.nodes[7902].up = True
    cluster = await opening
    network.nodes[7901].up = True

    await asyncio.sleep(5)
    assert network.nodes[7900].identity().cluster == network.nodes[7902].identity().cluster
    await cluster.close()


@in_virtual_time
async def test_a_wiped_node_whose_others_never_come_is_told_of_after_a_while_in_one_line(tmp_path):
    network = Network()
    await found(network, state=tmp_path)
    network.nodes[7900].wipe()
    network.nodes[7901].up = network.nodes[7902].up = False

    with pytest.raises(SetupError, match="localhost:7900 belongs to none; localhost:7901: ") as refused:
        await network.open(state=tmp_path)

    assert "\n" not in str(refused.value)
    assert "start the 2 others of 3 nodes, " in str(refused.value)
    assert "use another state directory for a new cluster" in str(refused.value)


class GoneOnceSeen(Node):
    """Says who it is, and is away for a second after."""

    def identity(self):
        told = super().identity()
        asyncio.get_running_loop().call_soon(self._leave)
        return told

    def _leave(self):
        self.up = False
        asyncio.get_running_loop().call_later(1, setattr, self, "up", True)


@pytest.mark.parametrize("others", ["away", "wiped"])
@in_virtual_time
async def test_a_node_with_files_that_goes_as_soon_as_it_was_seen_is_waited_for(others):
    network = Network()
    await found(network)
    gone = GoneOnceSeen("n0")
    gone.store = network.nodes[7900].store
    network.nodes[7900] = gone
    for port in (7901, 7902):
        if others == "wiped":
            network.nodes[port].wipe()
        else:
            network.nodes[port].up = False

    with pytest.raises(SetupError) as refused:
        await network.open(founding_s=0.5)

    assert "of 3 nodes answer, and a new cluster is founded with all of them" in str(refused.value)
    assert not any(network.nodes[port].store.identify().cluster for port in (7901, 7902) if others == "wiped")


@in_virtual_time
async def test_with_a_state_directory_writes_are_stamped_at_once_and_rise_over_a_restart(tmp_path):
    network = Network()
    cluster = await network.open(state=tmp_path)
    first = await settled(cluster.coordinator.set(KEY, b"1"))
    assert cluster.coordinator.stamping == "at once"
    await cluster.close()

    cluster = await network.open(state=tmp_path)
    second = await settled(cluster.coordinator.set(KEY, b"2"))

    assert second.version > first.version
    await cluster.close()


@in_virtual_time
async def test_without_a_state_directory_writes_ask_first():
    network = Network()

    cluster = await network.open()

    assert cluster.coordinator.stamping == "ask first"
    await cluster.close()


@in_virtual_time
async def test_close_is_idempotent():
    network = Network()
    cluster = await network.open()

    await cluster.close()
    await cluster.close()

    assert all(client.closed for client in network.clients)
