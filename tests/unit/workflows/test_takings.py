from workflows.takings import Taken, Waiting, steering, take


def waiting(*types: str) -> list[Waiting]:
    return [Waiting(id=str(number), type=each) for number, each in enumerate(types)]


def test_takes_nothing_from_an_empty_queue() -> None:
    assert take([]) == Taken()


def test_takes_one_message_a_turn_in_order() -> None:
    assert take(waiting("user.message", "user.message")) == Taken(inputs=["0"])


def test_takes_the_system_message_that_accompanies_a_message() -> None:
    queue = waiting("user.message", "system.message", "user.message", "system.message")
    assert take(queue) == Taken(inputs=["0", "1"])


def test_an_interrupt_behind_a_message_waits_until_that_message_is_taken() -> None:
    assert take(waiting("user.message", "user.interrupt")) == Taken(inputs=["0"])


def test_a_system_message_alone_waits_for_a_message() -> None:
    assert take(waiting("system.message")) == Taken()


def test_an_interrupt_with_nothing_to_stop_is_passed() -> None:
    assert take(waiting("user.interrupt", "user.message")) == Taken(inputs=["1"], passed=["0"])


HELD = [Waiting("m1", "user.message", seq=5), Waiting("n1", "system.message", seq=6)]


def test_what_was_sent_before_a_turn_failed_waits_for_it() -> None:
    assert take(HELD, held_seq=9) == Taken()


def test_something_new_or_an_interrupt_lets_the_queue_go_on_in_order() -> None:
    new, stop = Waiting("m2", "user.message", seq=10), Waiting("i", "user.interrupt", seq=10)
    assert take([*HELD, new], held_seq=9) == Taken(inputs=["m1", "n1"])
    assert take([*HELD, stop], held_seq=9) == Taken(inputs=["m1", "n1"], passed=["i"])
    assert take([*HELD, new, stop], held_seq=2**63 - 1) == Taken(inputs=["m1", "n1"], passed=["i"])


def test_nothing_new_passes_a_turn_that_cannot_go_on_yet() -> None:
    assert take([*HELD, Waiting("m2", "user.message", seq=10)], held_seq=2**63 - 1) == Taken()


def test_a_decision_that_nothing_waits_for_is_passed_while_the_queue_is_held() -> None:
    stray = Waiting("c", "user.tool_confirmation", seq=10)
    assert take([*HELD, stray], held_seq=9) == Taken(passed=["c"])


def test_steering_takes_what_steers_with_its_system_message_and_leaves_the_rest() -> None:
    queue = [
        Waiting("m1", "user.message"),
        Waiting("s1", "user.message", steers=True),
        Waiting("n1", "system.message"),
        Waiting("m2", "user.message"),
        Waiting("n2", "system.message"),
        Waiting("s2", "user.message", steers=True),
    ]
    assert steering(queue) == ["s1", "n1", "s2"]
    assert steering(queue[:1]) == []
