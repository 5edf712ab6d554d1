"""The work that any release has to do well, whatever is in front of it."""

import asyncio
import secrets

from ..patient_clients import Clients, approve_when_asked, check, everything, must_have_run, requests_for
from .installation import Installation
from .pod_watch import watching_pods


async def run_shared_pipelines(installation: Installation) -> None:
    """Six real pipelines and a DAG of 30 stages at once: everything ends as it should, no line is missing or doubled, no pod twice."""
    clients = Clients(installation)
    requests, own = requests_for(1, ":"), secrets.token_hex(3)
    for request in requests:
        request.pipeline_id += f"-{own}"
    async with watching_pods(installation) as pods, asyncio.timeout(500):
        approving = asyncio.create_task(approve_when_asked(clients, f"3-monorepo-approval-{own}"), name="approve")
        accounts = await everything(clients, requests)
        await approving
    check(requests, accounts)
    assert must_have_run(requests, accounts)
    assert not pods.created_twice()
    shared = [account.outcome() for pipeline_id, account in accounts.items() if pipeline_id != f"random-{own}"]
    assert {status for outcome in shared for status, _ in outcome.values()} <= {"STAGE_COMPLETED", "STAGE_SKIPPED"}
    assert {attempts for outcome in shared for stage_id, (_, attempts) in outcome.items() if stage_id} <= {0, 1}
    for account in accounts.values():
        assert await clients.replayed(account)
