"""Whether, how often and when a failed attempt is repeated: the pure decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otto_executor.retry import INFRASTRUCTURE, NEVER_BY_DEFAULT, Failure, FailureCause, RetryPolicy, condition, decide, delay_before

NONE = RetryPolicy()


def decided(policy: RetryPolicy, cause: FailureCause, code: int | None = None, used: int = 0, infrastructure_used: int = 0) -> object:
    return decide(
        policy,
        Failure(cause, "words", code),
        used=used,
        infrastructure_used=infrastructure_used,
        infrastructure=RetryPolicy(retries=2, delay=1.0, multiplier=2.0),
        draw=lambda: 0.5,
    )


@pytest.mark.parametrize("cause", sorted(set(FailureCause) - INFRASTRUCTURE))
def test_without_words_everything_is_retried_but_what_can_not_change(cause: FailureCause) -> None:
    """CANCELLED and REJECTED need to be named; every other cause is retried by default, and each can be named."""
    assert (decided(RetryPolicy(retries=1), cause) is not None) is (cause not in NEVER_BY_DEFAULT)
    assert decided(RetryPolicy(retries=1, on=(cause.value,)), cause) is not None
    assert decided(RetryPolicy(retries=1, on=("exit:99",)), cause) is None
    assert decided(NONE, cause) is None
    assert decided(RetryPolicy(retries=1), cause, used=1) is None


@pytest.mark.parametrize("cause", sorted(INFRASTRUCTURE))
def test_infrastructure_uses_its_own_budget_first(cause: FailureCause) -> None:
    """Then the user's, where the policy matches; the delays of its budget are its own."""
    for used, delay in ((0, 1.0), (1, 2.0)):
        retry = decided(RetryPolicy(retries=1, delay=50.0), cause, infrastructure_used=used)
        assert (getattr(retry, "infrastructure", None), getattr(retry, "delay", None)) == (True, delay)
    retry = decided(RetryPolicy(retries=1, delay=50.0), cause, infrastructure_used=2)
    assert (getattr(retry, "infrastructure", None), getattr(retry, "delay", None)) == (False, 50.0)
    assert decided(RetryPolicy(retries=1, on=("EXIT_CODE",)), cause, infrastructure_used=2) is None
    assert decided(RetryPolicy(retries=1), cause, used=1, infrastructure_used=2) is None


def test_one_exit_code_is_not_another() -> None:
    """`exit:7` matches 7 whatever the cause, and nothing else."""
    policy = RetryPolicy(retries=1, on=("exit:7",))
    assert decided(policy, FailureCause.EXIT_CODE, 7) is not None
    assert decided(policy, FailureCause.OOM_KILLED, 7) is not None
    assert decided(policy, FailureCause.EXIT_CODE, 77) is None
    assert decided(policy, FailureCause.EXIT_CODE, None) is None


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("timeout", "TIMEOUT"),
        (" OOM ", "OOM_KILLED"),
        ("oom-killed", "OOM_KILLED"),
        ("FAILURE_CAUSE_EVICTED", "EVICTED"),
        ("node lost", "NODE_LOST"),
        ("exit", "EXIT_CODE"),
        ("canceled", "CANCELLED"),
        ("exit:137", "exit:137"),
        ("Exit_Code:007", "exit:7"),
    ],
)
def test_words_of_retryable_failures(word: str, meant: str) -> None:
    """In any case, with hyphens or blanks, with or without the prefix, and as one exit code."""
    assert condition(word) == meant


@pytest.mark.parametrize("word", ["", "oops", "exit:", "exit:256", "exit:-1", "exit:x", "timeout:3", "exit:٣", "exit:" + "9" * 5000])
def test_other_words_are_refused(word: str) -> None:
    """With what would be right, also where Python itself would refuse to read so long a number."""
    with pytest.raises(ValueError, match=r"exit:N$|0 to 255$"):
        condition(word)


@given(
    st.floats(0, 86_400),
    st.floats(1, 100),
    st.floats(0, 86_400),
    st.floats(0, 1),
    st.integers(1, 100_000),
    st.floats(0, 1, exclude_max=True),
)
def test_delays_stay_within_their_bounds(delay: float, multiplier: float, most: float, jitter: float, retry: int, drawn: float) -> None:
    """However large retry and multiplier are: never over the longest, and never less than what jitter may take off."""
    policy = RetryPolicy(retries=1, delay=delay, multiplier=multiplier, max_delay=most, jitter=jitter)
    full = delay_before(RetryPolicy(delay=delay, multiplier=multiplier, max_delay=most), retry, lambda: drawn)
    assert full <= most
    assert min(delay, most) <= full
    assert full * (1 - jitter) * 0.999999 <= delay_before(policy, retry, lambda: drawn) <= full


def test_the_longest_delay_by_default() -> None:
    """Five minutes, as the contract says for max_delay_seconds 0."""
    assert delay_before(RetryPolicy(delay=10.0, multiplier=10.0), 9, lambda: 0.0) == 300.0
