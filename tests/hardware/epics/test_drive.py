"""Legs one after the other, against a clock of the test's own."""

from __future__ import annotations

import math

import pytest

from lauepilot.hardware.epics.drive import Drive
from lauepilot.hardware.epics.travel import Route, Travel


class Clock:
    now = 0.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def drive(clock):
    return Drive(0.0, lambda: clock.now, lambda wall: 2.0 * wall)  # the instrument's clock goes twice as fast


def test_two_legs_are_told_with_the_place_between_and_their_time(drive, clock):
    drive.go([Travel(0.0, 10.0, 5.0), Travel(10.0, 8.0, 1.0, settle_s=0.5)])
    assert drive.look() == pytest.approx(2.0)
    clock.now = 0.5
    assert drive.look() == pytest.approx(1.0)
    assert drive.dial == pytest.approx(5.0)
    assert drive.moving
    clock.now = 1.0
    assert drive.look() == 0.0
    assert drive.next_leg()
    clock.now = 2.1
    assert drive.look() == pytest.approx(0.3)
    assert not drive.moving  # settles
    clock.now = 9.0  # whoever looks late does not make it longer
    assert not drive.next_leg()
    assert drive.tell() == (pytest.approx([10.0, 8.0]), pytest.approx(2.0 + 2.5))
    assert drive.tell() == ([8.0], 0.0)


def test_what_was_told_on_the_way_is_not_told_again(drive, clock):
    drive.go([Travel(0.0, 10.0, 5.0)])
    clock.now = 0.25
    assert drive.tell() == (pytest.approx([2.5]), pytest.approx(0.5))
    clock.now = 1.0
    drive.look()
    assert not drive.next_leg()
    assert drive.tell() == (pytest.approx([10.0]), pytest.approx(1.5))


def test_another_goal_and_a_stop_on_the_way(drive, clock):
    drive.go([Travel(0.0, 10.0, 5.0, 0.5)])
    clock.now = 0.5
    drive.go([Travel(drive.dial, -10.0, 5.0, 0.5)])
    clock.now = 0.8
    drive.brake()
    drive.brake()  # twice is once
    clock.now = 5.0
    assert drive.look() == 0.0
    assert not drive.next_leg()
    path, seconds = drive.tell()
    assert path[0] == pytest.approx(3.75)  # where it turned
    assert path[-1] == drive.dial < 3.75
    assert seconds == pytest.approx(1.0 + 0.6 + 0.5)


def test_at_once():
    drive = Drive(0.0, lambda: 0.0, lambda wall: math.inf)
    drive.go([Travel(0.0, 10.0, 5.0, settle_s=1.0)])
    assert drive.look() == 0.0
    assert drive.dial == 10.0
    assert not drive.next_leg()
    assert drive.tell() == ([10.0], pytest.approx(3.0))


def test_a_route_is_cut_and_braked_on_its_way():
    route = Route(lambda seconds: 3.0 * seconds, 4.0, 1.0)
    assert (route.place(1.0), route.place(9.0), route.duration_s) == (3.0, 12.0, 5.0)
    assert route.cut(0.5).place(9.0) == 6.0
    assert route.brake(1.0).goal == 3.0
    assert Route(lambda seconds: 7.0, 0.0, 1.0).duration_s == 0.0
