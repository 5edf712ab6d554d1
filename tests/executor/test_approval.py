"""Who may decide about a stage, and what a decision does to an earlier one."""

import pytest

from otto_executor.approval import Approval, Decision, decided, in_words, who_may
from otto_executor.errors import NotAnApproverError, NotApprovableError

YES, NO = Decision.APPROVE, Decision.REJECT


def test_only_approvers_may_decide() -> None:
    """Names match literally; the words name who may; without any approvers everybody may."""
    approval = Approval(("kim", "팀장"))
    for user in ("Kim", "kim ", "lee", ""):
        with pytest.raises(NotAnApproverError, match="kim, 팀장"):
            decided(approval, YES, user, "", 1.0)
    assert decided(approval, YES, "팀장", "fine", 1.0) == Approval(("kim", "팀장"), YES, "팀장", "fine", 1.0)
    assert decided(Approval(), NO, "anyone", "", 2.0).decision is NO
    assert who_may(()) == "anybody"


@pytest.mark.parametrize(("first", "second"), [(YES, NO), (NO, YES)])
def test_a_decision_stands(first: Decision, second: Decision) -> None:
    """Repeating it changes nothing, not even who gave it; the opposite is refused with what was decided."""
    once = decided(Approval(("kim", "lee")), first, "kim", "because", 1.0)
    assert decided(once, first, "lee", "me too", 2.0) is once
    with pytest.raises(NotApprovableError, match="by kim: because"):
        decided(once, second, "lee", "", 2.0)


def test_a_stranger_does_not_learn_or_change_a_decision() -> None:
    """Who may not decide is refused also after the decision, before anything of it is told."""
    once = decided(Approval(("kim",)), NO, "kim", "secret reasons", 1.0)
    with pytest.raises(NotAnApproverError) as refused:
        decided(once, NO, "lee", "", 2.0)
    assert "secret reasons" not in str(refused.value)


def test_a_decision_in_words() -> None:
    """Who, what and, if given, why."""
    assert in_words(Approval((), YES, "kim", "", 1.0)) == "approved by kim"
    assert in_words(Approval((), NO, "kim", "not on Fridays", 1.0)) == "rejected by kim: not on Fridays"
