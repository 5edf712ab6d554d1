"""A person's decision about a stage."""

from dataclasses import dataclass
from enum import StrEnum

from otto_executor.errors import NotAnApproverError, NotApprovableError


class Decision(StrEnum):
    """Yes or no."""

    APPROVE = "APPROVE"
    REJECT = "REJECT"


@dataclass(frozen=True, slots=True)
class Approval:
    """Who may decide about a stage, and what was decided. No approvers: anybody may."""

    approvers: tuple[str, ...] = ()
    decision: Decision | None = None
    decided_by: str = ""
    comment: str = ""
    decided_at: float | None = None


def who_may(approvers: tuple[str, ...]) -> str:
    """The approvers in words."""
    return ", ".join(approvers) if approvers else "anybody"


def decided(approval: Approval, decision: Decision, user: str, comment: str, now: float) -> Approval:
    """The approval with this decision; unchanged if it was decided the same way before.

    Raises NotAnApproverError if `user` is none (names match literally), NotApprovableError if it was decided otherwise.
    """
    if approval.approvers and user not in approval.approvers:
        raise NotAnApproverError(f"{user!r} is not among those who may approve: {who_may(approval.approvers)}")
    if approval.decision is None:
        return Approval(approval.approvers, decision, user, comment, now)
    if approval.decision is not decision:
        raise NotApprovableError(f"already decided: {in_words(approval)}")
    return approval


def in_words(approval: Approval) -> str:
    """Who decided what and why, e.g. `rejected by kim: not on Fridays`."""
    verb = "approved" if approval.decision is Decision.APPROVE else "rejected"
    return f"{verb} by {approval.decided_by}" + (f": {approval.comment}" if approval.comment else "")
