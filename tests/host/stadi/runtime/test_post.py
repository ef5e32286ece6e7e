"""What devices send each other, and sockets that carry it."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import torch

from brownout.host.errors import ExchangeError
from brownout.host.stadi.runtime.post import ATTEMPTS, Again, Interrupted, Key, Message, Post
from brownout.host.stadi.runtime.wire import TornError, Wire


class Office:
    """Posts of devices that are connected; what goes wrong on the way is `spoil`."""

    def __init__(self, *names, patience_s=20.0):
        self.carried = []
        self.spoil = lambda letter: letter
        self.posts = {name: Post(name, self.carry, patience_s) for name in names}
        for post in self.posts.values():
            post.begin(0)

    def carry(self, receiver, letter):
        self.carried.append((receiver, letter))
        letter = self.spoil(letter)
        if letter is not None:
            self.posts[receiver].deliver(letter)


def tensors(value):
    return {"key": torch.full((2, 3), value, dtype=torch.int8)}


def flipped(letter):
    if isinstance(letter, Again):
        return letter
    data = bytearray(letter.data)
    data[-1] ^= 4
    return Message(letter.key, bytes(data), letter.checksum)


def later(action, seconds=0.05):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_messages_are_found_by_name_in_whatever_order_they_come():
    office = Office("a", "b")
    a, b = office.posts.values()
    for step in (2, 0, 1):
        a.send(["b"], Key(0, "a", step, "site"), tensors(step))
    for step in range(3):
        assert b.take(Key(0, "a", step, "site"))["key"].eq(step).all()
    assert (a.sent_bytes, b.damaged) == (6 * len(office.carried), 0)


def test_a_message_can_be_taken_once():
    office = Office("a", "b", patience_s=0.05)
    office.posts["a"].send(["b"], Key(0, "a", 0, "x"), tensors(1))
    office.posts["b"].take(Key(0, "a", 0, "x"))
    with pytest.raises(ExchangeError, match=r"^b waited 0\.05 s for x of a at step 0; a hangs or is very slow: "):
        office.posts["b"].take(Key(0, "a", 0, "x"))


def test_a_message_of_the_next_epoch_may_come_early_and_one_of_the_last_epoch_is_not_mistaken_for_it():
    office = Office("a", "b", patience_s=0.05)
    a, b = office.posts.values()
    a.send(["b"], Key(0, "a", 0, "x"), tensors(1))
    a.send(["b"], Key(1, "a", 0, "x"), tensors(2))
    b.begin(1)
    assert b.take(Key(1, "a", 0, "x"))["key"].eq(2).all()
    a.send(["b"], Key(0, "a", 0, "y"), tensors(3))
    b.begin(0)
    with pytest.raises(ExchangeError):
        b.take(Key(0, "a", 0, "y"))


@pytest.mark.parametrize("spoilt", [1, ATTEMPTS])
def test_a_damaged_message_is_asked_for_again(spoilt):
    office = Office("a", "b")
    left = [flipped] * spoilt
    office.spoil = lambda letter: left.pop()(letter) if left and isinstance(letter, Message) else letter
    a, b = office.posts.values()
    a.send(["b"], Key(0, "a", 0, "x"), tensors(5))
    assert b.take(Key(0, "a", 0, "x"))["key"].eq(5).all()
    assert b.damaged == spoilt
    assert [type(letter) for _, letter in office.carried] == [Message, *[Again, Message] * spoilt]
    assert a.sent_bytes == 6


def test_a_message_that_always_comes_damaged_is_an_error_that_names_the_sender():
    office = Office("a", "b")
    office.spoil = flipped
    office.posts["a"].send(["b"], Key(0, "a", 3, "x"), tensors(5))
    with pytest.raises(
        ExchangeError, match=r"^b got x of a at step 3 damaged 4 times; check the link from a$"
    ) as error:
        office.posts["b"].take(Key(0, "a", 3, "x"))
    assert error.value.sender == "a"


def test_what_nobody_will_ask_for_is_forgotten():
    office = Office("a", "b")
    a = office.posts["a"]
    for step in range(3):
        a.send(["b"], Key(0, "a", step, "x"), tensors(step))
    a.forget(before=2)
    office.carried.clear()
    for step in range(3):
        a.deliver(Again(Key(0, "a", step, "x"), "b"))
    assert [letter.key.step for _, letter in office.carried] == [2]
    a.begin(0)
    a.deliver(Again(Key(0, "a", 2, "x"), "b"))
    assert len(office.carried) == 1


def test_an_interruption_ends_waiting_also_if_it_comes_before_the_interval_begins():
    office = Office("b")
    b = office.posts["b"]
    timer = later(lambda: b.interrupt(0))
    with pytest.raises(Interrupted):
        b.take(Key(0, "a", 0, "x"))
    timer.join()
    b.interrupt(1)
    b.begin(1)
    with pytest.raises(Interrupted):
        b.check()
    b.begin(2)
    b.check()


def test_a_sender_that_is_slow_is_waited_for_while_it_sends_other_things():
    office = Office("a", "b", patience_s=0.5)
    a, b = office.posts.values()

    def work():
        for step in range(5):
            time.sleep(0.2)
            a.send(["b"], Key(0, "a", step, "x"), tensors(step))

    thread = threading.Thread(target=work)
    thread.start()
    assert b.take(Key(0, "a", 4, "x"))["key"].eq(4).all()
    thread.join()


def test_who_waits_for_a_device_whose_connection_breaks_is_told_at_once_and_what_came_before_counts():
    office = Office("a", "b")
    a, b = office.posts.values()
    a.send(["b"], Key(0, "a", 0, "x"), tensors(1))
    timer = later(lambda: b.cut("a", "closed its connection"))
    with pytest.raises(ExchangeError, match=r"^a closed its connection$"):
        b.take(Key(0, "a", 1, "x"))
    timer.join()
    assert b.take(Key(0, "a", 0, "x"))["key"].eq(1).all()


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    wire = Wire(here, "test")
    yield wire, there
    there.close()
    wire.close()


@pytest.fixture
def wires():
    ends = [Wire(end, "test") for end in socket.socketpair()]
    yield ends
    for wire in ends:
        wire.close()


def test_wires_carry_messages_requests_and_other_objects_in_order(wires):
    message = Message.of(Key(7, "gerät", 3, "blocks.0"), tensors(2))
    sent = [message, Again(message.key, "b"), (1, "command"), Message.of(message.key, {"big": torch.zeros(1 << 20)})]
    for item in sent:
        wires[0].send(item)
    assert [wires[1].receive() for _ in sent] == sent


def bytes_of(item):
    """What a wire writes for an object."""
    here, there = socket.socketpair()
    wire = Wire(here, "test")
    wire.send(item)
    wire.send(None)
    wire._writer.join()
    there.setblocking(False)
    data = there.recv(1 << 16)
    there.close()
    wire.close()
    return data


@pytest.mark.parametrize("item", [Message.of(Key(0, "a", 0, "x"), tensors(2)), (3, "command")], ids=["letter", "other"])
def test_every_flipped_byte_is_noticed(item):
    data = bytes_of(item)
    for place in range(len(data)):
        here, there = socket.socketpair()
        wire = Wire(here, "test")
        there.sendall(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        there.close()
        try:
            got = wire.receive()
        except TornError:
            continue
        finally:
            wire.close()
        # Only what devices exchange is handed on, to be asked for again.
        assert isinstance(got, Message)
        assert got.key == item.key
        assert got.damaged


def test_garbage_and_ends_are_told_apart(pair):
    wire, there = pair
    there.sendall(b"x" * 100)
    with pytest.raises(TornError, match=r"^sent bytes that are no message$"):
        wire.receive()


@pytest.mark.parametrize("count", [0, 5, 40])
def test_a_letter_that_is_cut_off_is_an_end(pair, count):
    wire, there = pair
    there.sendall(bytes_of((3, "command"))[:count])
    there.close()
    with pytest.raises(ConnectionError, match=r"^closed its connection$") as error:
        wire.receive()
    assert not isinstance(error.value, TornError)


def test_nobody_waits_for_a_receiver_that_does_not_read(pair):
    wire, there = pair
    began = time.monotonic()
    for _ in range(20):
        wire.send(Message.of(Key(0, "a", 0, "x"), {"big": torch.zeros(1 << 18)}))
    wire.close()
    assert time.monotonic() - began < 5
    assert there.fileno() >= 0
