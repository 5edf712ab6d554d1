"""One request: its deadline, the server's wish to be asked later, and every failure as an error of ours."""

import asyncio

import pytest

from otto_kubekit.errors import (
    AlreadyExistsError,
    ApiError,
    BadRequestError,
    ConflictError,
    DeadlineError,
    ExpiredError,
    FencedError,
    ForbiddenError,
    InvalidError,
    KubeError,
    MalformedError,
    NotFoundError,
    ServerError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
    UnsentError,
    answered,
)
from otto_kubekit.kinds import CONFIG_MAPS, LEASES, Kind
from otto_kubekit.objects import KubeObject
from otto_kubekit.testing import FakeCluster
from otto_kubekit.testing.faults import Asked
from otto_kubekit.transport import MOST_CALLS

BODY = {"metadata": {"name": "one"}, "data": {"k": "v"}}


class Numbered(KubeObject, frozen=True, kw_only=True):
    """What we would like to read, and is not there."""

    data: int


def creating(asked: Asked) -> bool:
    return asked.method == "POST"


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", BadRequestError),
        (401, "Unauthorized", UnauthorizedError),
        (403, "Forbidden", ForbiddenError),
        (404, "NotFound", NotFoundError),
        (405, "MethodNotAllowed", BadRequestError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", ExpiredError),
        (410, "Gone", ExpiredError),
        (422, "Invalid", InvalidError),
        (429, "TooManyRequests", ThrottledError),
        (500, "InternalError", ServerError),
        (503, "ServiceUnavailable", ServerError),
        (504, "Timeout", ServerError),
    ],
)
async def test_each_answer_has_its_error(fake: FakeCluster, code: int, reason: str, kind: type[ApiError]) -> None:
    """With the server's words in its fields."""
    async with fake.client() as client:
        fake.faults.answer(code, reason, "because", times=None)
        with pytest.raises(kind) as caught:
            await client.get(CONFIG_MAPS, "one")
    error = caught.value
    assert (type(error), error.code, error.reason, error.message) == (kind, code, reason, "because")
    assert error.maybe_done == (code >= 500)


def test_an_answer_that_is_no_status_is_an_error_of_its_code() -> None:
    """A proxy in between may answer in HTML."""
    error = answered("GET /x", 502, b"<html>Bad Gateway</html>")
    assert (type(error), error.code, error.message) == (ServerError, 502, "<html>Bad Gateway</html>")


async def test_the_server_s_wish_to_be_asked_later_is_obeyed(fake: FakeCluster) -> None:
    """429 and 503 with Retry-After are repeated when it said, also a create: nothing was done."""
    async with fake.client() as client:
        loop = asyncio.get_running_loop()
        for code in (429, 503):
            fake.faults.answer(code, retry_after=1, when=creating)
            began = loop.time()
            await client.create(CONFIG_MAPS, {"metadata": {"generateName": "one-"}})
            assert loop.time() - began >= 1.0
    assert len([asked for asked in fake.requests if creating(asked)]) == 4


async def test_a_wish_beyond_the_deadline_is_told_at_once(fake: FakeCluster) -> None:
    """ThrottledError says how long it would be; nobody waits for nothing."""
    async with fake.client() as client:
        fake.faults.answer(429, retry_after=3600)
        with pytest.raises(ThrottledError) as caught:
            await asyncio.wait_for(client.list(CONFIG_MAPS), 10)
    assert caught.value.retry_after == 3600


async def test_an_answer_without_such_a_wish_is_not_repeated(fake: FakeCluster) -> None:
    """Whether it makes sense is the caller's to say."""
    async with fake.client() as client:
        fake.faults.answer(503)
        with pytest.raises(ServerError):
            await client.list(CONFIG_MAPS)
    assert len(fake.requests) == 1


async def test_a_silent_server_meets_the_deadline(fake: FakeCluster) -> None:
    """The call's own, or the client's."""
    async with fake.client(timeout=0.3) as client:
        fake.faults.stall()
        with pytest.raises(DeadlineError) as caught:
            await client.list(CONFIG_MAPS)
        assert caught.value.maybe_done
        with pytest.raises(DeadlineError):
            await client.create(CONFIG_MAPS, BODY, timeout=0.1)
        fake.faults.resume()
        await client.list(CONFIG_MAPS, timeout=30)


async def test_a_burst_of_calls_waits_for_its_turn(fake: FakeCluster) -> None:
    """A server that is slow has so many at once and no more; Leases pass them all, and in the end each has its answer."""
    async with fake.client() as client, asyncio.TaskGroup() as group:
        fake.faults.stall(lambda asked: "configmaps" in asked.path)
        calls = [group.create_task(client.list(CONFIG_MAPS)) for _ in range(3 * MOST_CALLS)]
        while fake.faults.stalled < MOST_CALLS:
            await asyncio.sleep(0.01)
        for _ in range(5):
            await client.list(LEASES)
        assert fake.faults.stalled == MOST_CALLS
        fake.faults.resume()
        async with asyncio.timeout(25):
            await asyncio.gather(*calls)
    assert sum("configmaps" in asked.path for asked in fake.requests) == len(calls)


async def test_whoever_waits_for_a_turn_has_a_deadline(fake: FakeCluster) -> None:
    """A server that answers nobody holds nobody up for longer."""
    async with fake.client() as client, asyncio.TaskGroup() as group:
        fake.faults.stall()
        calls = [group.create_task(client.list(CONFIG_MAPS)) for _ in range(MOST_CALLS)]
        while fake.faults.stalled < MOST_CALLS:
            await asyncio.sleep(0.01)
        with pytest.raises(UnsentError) as caught:
            await client.create(CONFIG_MAPS, BODY, timeout=0.1)
        assert not caught.value.maybe_done
        assert fake.faults.stalled == MOST_CALLS
        client.transport.fence = lambda: False
        async with asyncio.timeout(20):
            with pytest.raises(FencedError):
                await client.create(CONFIG_MAPS, BODY, timeout=1000)
        for call in calls:
            call.cancel()


async def test_what_a_server_in_trouble_may_have_done_is_not_called_unsent(fake: FakeCluster) -> None:
    """Its repetition, which it asked for, found no turn; the first one was sent."""
    async with fake.client() as client, asyncio.TaskGroup() as group:
        fake.faults.answer(504, retry_after=1, when=creating)
        creation = asyncio.create_task(client.create(CONFIG_MAPS, BODY, timeout=2))
        while not fake.requests:
            await asyncio.sleep(0.01)
        fake.faults.stall()
        calls = [group.create_task(client.list(CONFIG_MAPS)) for _ in range(MOST_CALLS)]
        with pytest.raises(DeadlineError) as caught:
            await creation
        assert caught.value.maybe_done
        assert len(fake.requests) == 1 + MOST_CALLS
        for call in calls:
            call.cancel()


async def test_who_is_told_to_come_later_leaves_the_turn_to_others(fake: FakeCluster) -> None:
    """Creations are throttled, and wait for a minute; what the server has time for goes on."""
    async with fake.client(timeout=100) as client, asyncio.TaskGroup() as group:
        fake.faults.answer(429, times=None, retry_after=60, when=creating)
        calls = [group.create_task(client.create(CONFIG_MAPS, BODY)) for _ in range(MOST_CALLS)]
        while len(fake.requests) < MOST_CALLS:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            await client.list(CONFIG_MAPS)
        for call in calls:
            call.cancel()


async def test_a_cut_connection_says_that_it_may_be_done(fake: FakeCluster) -> None:
    """The create was carried out, the answer was lost: who asks again finds it there."""
    async with fake.client() as client:
        fake.faults.cut(after=True, when=creating)
        with pytest.raises(UnreachableError) as caught:
            await client.create(CONFIG_MAPS, BODY)
        assert caught.value.maybe_done
        with pytest.raises(AlreadyExistsError):
            await client.create(CONFIG_MAPS, BODY)


async def test_nobody_there_is_unreachable(fake: FakeCluster) -> None:
    """And back again is reachable, with the same client."""
    async with fake.client() as client:
        await fake.stop()
        with pytest.raises(UnreachableError):
            await client.list(CONFIG_MAPS)
        await fake.start()
        assert (await client.list(CONFIG_MAPS)).items == []


async def test_an_answer_that_is_no_object_is_malformed(fake: FakeCluster) -> None:
    """As when a field is of another type than it is read into."""
    numbered = Kind("", "v1", "configmaps", "ConfigMap", Numbered)
    async with fake.client() as client:
        await client.create(CONFIG_MAPS, BODY)
        with pytest.raises(MalformedError, match="data"):
            await client.get(numbered, "one")


async def test_a_name_can_not_leave_its_place(fake: FakeCluster) -> None:
    """Names are quoted, so a slash in one leads nowhere else."""
    async with fake.client() as client:
        with pytest.raises(NotFoundError):
            await client.get(CONFIG_MAPS, "a/../../secrets")
    assert fake.requests[-1].path.startswith("/api/v1/namespaces/default/configmaps/")


async def test_many_at_once_are_answered(fake: FakeCluster) -> None:
    """A hundred calls in flight, each with its own answer."""
    async with fake.client() as client:
        made = await asyncio.gather(*(client.create(CONFIG_MAPS, {"metadata": {"name": f"m{n}"}}) for n in range(100)))
    assert [item.metadata.name for item in made] == [f"m{n}" for n in range(100)]


async def test_cancelling_a_call_leaves_the_client_usable(fake: FakeCluster) -> None:
    """Its connection is dropped, no other one."""
    async with fake.client() as client:
        fake.faults.delay(30, times=1)
        task = asyncio.create_task(client.list(CONFIG_MAPS))
        await _asked(fake, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.list(CONFIG_MAPS)).items == []


async def _asked(fake: FakeCluster, count: int) -> None:
    while len(fake.requests) < count:
        await asyncio.sleep(0.01)


async def test_an_expired_page_begins_the_list_again(fake: FakeCluster) -> None:
    """list() gives everything or raises; after three expiries it asks for all at once."""
    async with fake.client() as client:
        for number in range(5):
            await client.create(CONFIG_MAPS, {"metadata": {"name": f"m{number}"}})
        fake.faults.answer(410, times=3, when=lambda asked: "continue" in asked.query)
        names = [item.metadata.name for item in (await client.list(CONFIG_MAPS, page_size=2)).items]
    assert names == [f"m{number}" for number in range(5)]
    assert "limit" not in fake.requests[-1].query


async def test_a_token_is_reviewed(fake: FakeCluster) -> None:
    """Whose it is, and for whom."""
    fake.api.tokens["good"] = {"username": "system:serviceaccount:ci:runner", "groups": ["system:serviceaccounts"]}
    async with fake.client() as client:
        status = await client.review_token("good", ["ottoscaler"])
        assert (status.authenticated, status.user.username, status.audiences) == (True, "system:serviceaccount:ci:runner", ("ottoscaler",))
        assert not (await client.review_token("bad")).authenticated


def test_errors_are_one_tree() -> None:
    """Whoever catches KubeError catches all."""
    for kind in (ApiError, UnreachableError, DeadlineError, MalformedError):
        assert issubclass(kind, KubeError)
    assert issubclass(ConflictError, ApiError)
    assert not issubclass(AlreadyExistsError, ConflictError)


async def test_a_quota_s_collision_is_told_apart(fake: FakeCluster) -> None:
    """The object is not to blame: do it again."""
    async with fake.client() as client:
        words = 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified'
        fake.faults.answer(409, "Conflict", words, when=creating)
        with pytest.raises(ConflictError) as caught:
            await client.create(CONFIG_MAPS, BODY)
    assert caught.value.quota


def test_a_client_is_of_a_namespace() -> None:
    """Paths are those of the API, also for kinds without namespaces."""
    assert CONFIG_MAPS.path("a b", "x", "status") == "/api/v1/namespaces/a%20b/configmaps/x/status"
    assert CONFIG_MAPS.path("") == "/api/v1/configmaps"
