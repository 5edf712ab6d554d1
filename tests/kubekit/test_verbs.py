"""The verbs, the same on the fake and on a real API server."""

import asyncio

import pytest

from otto_kubekit.bodies import encode, json_patch, merge, strategic
from otto_kubekit.client import Client
from otto_kubekit.errors import (
    AlreadyExistsError,
    BadRequestError,
    ConflictError,
    ExpiredError,
    InvalidError,
    NotFoundError,
)
from otto_kubekit.kinds import CLAIMS, CONFIG_MAPS, LEASES, PODS, SECRETS, custom

from .conftest import THINGS, Kube, until


async def exists(client: Client, name: str) -> bool:
    try:
        await client.get(THINGS, name)
    except NotFoundError:
        return False
    return True


async def test_a_created_object_is_read_as_it_is(kube: Kube) -> None:
    """The server fills in uid, version and time; what was sent comes back typed."""
    made = await kube.client.create(THINGS, kube.thing("one", 7, labels={"a": "b"}))
    assert made.metadata.uid
    assert made.metadata.resource_version
    assert made.metadata.creation_timestamp is not None
    assert (made.spec.size, made.metadata.labels, made.metadata.namespace) == (7, {"a": "b"}, kube.client.namespace)
    assert await kube.client.get(THINGS, "one") == made


async def test_what_is_sent_may_be_encoded_already(kube: Kube) -> None:
    """Bytes go as they are."""
    assert (await kube.client.create(THINGS, encode(kube.thing("one", 3)))).spec.size == 3


async def test_a_name_can_be_taken_once(kube: Kube) -> None:
    """The second create is AlreadyExists, not Conflict."""
    await kube.client.create(THINGS, kube.thing("one"))
    with pytest.raises(AlreadyExistsError) as caught:
        await kube.client.create(THINGS, kube.thing("one"))
    assert (caught.value.code, caught.value.details.name) == (409, "one")


async def test_a_generated_name_begins_as_asked(kube: Kube) -> None:
    """GenerateName gives two objects two names."""
    names = [(await kube.client.create(THINGS, kube.thing(generateName="x-"))).metadata.name for _ in range(2)]
    assert names[0] != names[1]
    assert all(name.startswith("x-") and len(name) == 7 for name in names)


async def test_a_dry_run_creates_nothing(kube: Kube) -> None:
    """It answers as if."""
    assert (await kube.client.create(THINGS, kube.thing("one"), dry_run=True)).metadata.name == "one"
    assert not await exists(kube.client, "one")


@pytest.mark.parametrize(
    ("meta", "error"),
    [
        ({"name": "Not_a_name"}, InvalidError),
        ({}, InvalidError),
        ({"name": "a", "labels": {"x": "no blanks"}}, InvalidError),
        ({"name": "a", "namespace": "other"}, BadRequestError),
    ],
    ids=["name", "no name", "label", "other namespace"],
)
async def test_metadata_that_can_not_be_is_refused(kube: Kube, meta: dict[str, object], error: type[Exception]) -> None:
    """With a field where the server knows one."""
    with pytest.raises(error):
        await kube.client.create(THINGS, {**kube.thing(), "metadata": meta})


async def test_what_is_not_there_is_not_found(kube: Kube) -> None:
    """For every verb on one object, and for a kind that nobody defined."""
    for attempt in (
        kube.client.get(THINGS, "none"),
        kube.client.patch(THINGS, "none", merge({"spec": {"size": 2}})),
        kube.client.delete(THINGS, "none"),
        kube.client.replace(THINGS, "none", {**kube.thing("none"), "metadata": {"name": "none", "resourceVersion": "1"}}),
    ):
        with pytest.raises(NotFoundError):
            await attempt
    with pytest.raises(NotFoundError):
        await kube.client.list(custom("nobody.example", "v1", "nothings", "Nothing"))


async def test_a_list_comes_in_pages_of_one_moment(kube: Kube) -> None:
    """Pages of two hold five objects once each, though another is created between them."""
    for number in range(5):
        await kube.client.create(THINGS, kube.thing(f"t{number}", number))
    names, versions = [], set()
    async for page in kube.client.pages(THINGS, page_size=2):
        assert len(page.items) <= 2
        names += [thing.metadata.name for thing in page.items]
        versions.add(page.metadata.resource_version)
        if len(names) == 2:
            await kube.client.create(THINGS, kube.thing("t9"))
    assert names == ["t0", "t1", "t2", "t3", "t4"]
    assert len(versions) == 1
    listing = await kube.client.list(THINGS, page_size=2)
    assert [thing.metadata.name for thing in listing.items] == [*names, "t9"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("color=red", ["a"]),
        ("color!=red", ["b", "c"]),
        ("color in (red,blue)", ["a", "b"]),
        ("color notin (red),size=big", ["b"]),
        ("color", ["a", "b"]),
        ("!color", ["c"]),
        ("color==blue", ["b"]),
    ],
)
async def test_labels_select(kube: Kube, selector: str, names: list[str]) -> None:
    """Equality, sets and existence, all of them together."""
    for name, labels in (("a", {"color": "red"}), ("b", {"color": "blue", "size": "big"}), ("c", {})):
        await kube.client.create(THINGS, kube.thing(name, labels=labels))
    assert [thing.metadata.name for thing in (await kube.client.list(THINGS, labels=selector)).items] == names


async def test_a_field_selects(kube: Kube) -> None:
    """The name always; an unknown field is refused."""
    for name in "ab":
        await kube.client.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": {"k": name}})
    assert [item.data for item in (await kube.client.list(CONFIG_MAPS, fields="metadata.name=b")).items] == [{"k": "b"}]
    with pytest.raises(BadRequestError):
        await kube.client.list(CONFIG_MAPS, fields="data.k=a")


async def test_a_replacement_of_an_old_version_is_a_conflict(kube: Kube) -> None:
    """Who read before somebody else wrote is told so, and has to say what he read."""
    made = await kube.client.create(THINGS, kube.thing("one", 1))
    body = {**kube.thing("one", 2), "metadata": {"name": "one", "resourceVersion": made.metadata.resource_version}}
    written = await kube.client.replace(THINGS, "one", body)
    assert (written.spec.size, written.metadata.uid, written.metadata.generation) == (2, made.metadata.uid, 2)
    with pytest.raises(ConflictError) as caught:
        await kube.client.replace(THINGS, "one", body)
    assert not caught.value.quota
    with pytest.raises(InvalidError):
        await kube.client.replace(THINGS, "one", kube.thing("one", 3))


async def test_nothing_changed_is_no_new_version(kube: Kube) -> None:
    """A patch that says what is so already writes nothing."""
    made = await kube.client.create(THINGS, kube.thing("one", 1))
    same = await kube.client.patch(THINGS, "one", merge({"spec": {"size": 1}}))
    assert same.metadata.resource_version == made.metadata.resource_version


async def test_a_merge_patch_changes_and_removes(kube: Kube) -> None:
    """Null removes; lists are replaced; a resourceVersion in it has to be true."""
    made = await kube.client.create(THINGS, kube.thing("one", 1, labels={"a": "1", "b": "2"}))
    patched = await kube.client.patch(THINGS, "one", merge({"metadata": {"labels": {"a": None, "c": "3"}}, "spec": {"words": ["x"]}}))
    assert patched.metadata.labels == {"b": "2", "c": "3"}
    assert (patched.spec.size, patched.spec.words) == (1, ("x",))
    with pytest.raises(ConflictError):
        await kube.client.patch(
            THINGS, "one", merge({"metadata": {"resourceVersion": made.metadata.resource_version}, "spec": {"size": 9}})
        )


async def test_a_json_patch_tests_and_changes(kube: Kube) -> None:
    """All of it or nothing."""
    await kube.client.create(THINGS, kube.thing("one", 1))
    operations = [{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 2}]
    assert (await kube.client.patch(THINGS, "one", json_patch(operations))).spec.size == 2
    with pytest.raises(InvalidError):
        await kube.client.patch(THINGS, "one", json_patch(operations))
    assert (await kube.client.get(THINGS, "one")).spec.size == 2


async def test_a_strategic_patch_merges_lists_by_key(kube: Kube) -> None:
    """On built-in kinds; custom ones do not know it."""
    body = kube.pod("gated", "true", schedulingGates=[{"name": "test.io/a"}, {"name": "test.io/b"}])
    await kube.client.create(PODS, body)
    change = strategic({"spec": {"schedulingGates": [{"name": "test.io/a", "$patch": "delete"}]}})
    patched = await kube.client.patch(PODS, "gated", change)
    assert [gate.name for gate in patched.spec.scheduling_gates] == ["test.io/b"]
    await kube.client.create(THINGS, kube.thing("one"))
    with pytest.raises(BadRequestError) as caught:
        await kube.client.patch(THINGS, "one", strategic({"spec": {"size": 2}}))
    assert caught.value.code == 415


async def test_status_is_written_apart(kube: Kube) -> None:
    """Neither a create nor a patch of the object touches it; a patch of the status touches nothing else."""
    made = await kube.client.create(THINGS, {**kube.thing("one", 1), "status": {"state": "sent"}})
    assert made.status.state == ""
    patched = await kube.client.patch(THINGS, "one", merge({"spec": {"size": 5}, "status": {"state": "busy"}}), subresource="status")
    assert (patched.spec.size, patched.status.state, patched.metadata.generation) == (1, "busy", 1)
    patched = await kube.client.patch(THINGS, "one", merge({"spec": {"size": 6}, "status": {"state": "idle"}}))
    assert (patched.spec.size, patched.status.state, patched.metadata.generation) == (6, "busy", 2)


async def test_apply_creates_changes_and_takes_back(kube: Kube) -> None:
    """What the manager leaves out goes; what it never had stays."""
    await kube.client.apply(THINGS, "one", kube.thing("one", 1, labels={"ours": "1", "old": "1"}), field_manager="we")
    await kube.client.patch(THINGS, "one", merge({"metadata": {"labels": {"theirs": "1"}}}))
    applied = await kube.client.apply(THINGS, "one", kube.thing("one", 2, labels={"ours": "2"}), field_manager="we")
    assert applied.metadata.labels == {"ours": "2", "theirs": "1"}
    assert applied.spec.size == 2


async def test_apply_of_a_field_of_somebody_else_is_a_conflict_unless_forced(kube: Kube) -> None:
    """And the conflict names the field."""
    await kube.client.apply(THINGS, "one", kube.thing("one", 1), field_manager="they")
    with pytest.raises(ConflictError) as caught:
        await kube.client.apply(THINGS, "one", kube.thing("one", 2), field_manager="we", force=False)
    assert [cause.field for cause in caught.value.details.causes] == [".spec.size"]
    assert (await kube.client.apply(THINGS, "one", kube.thing("one", 2), field_manager="we")).spec.size == 2


async def test_a_delete_can_say_which_object_it_means(kube: Kube) -> None:
    """Another uid or version is a conflict and deletes nothing."""
    made = await kube.client.create(THINGS, kube.thing("one"))
    with pytest.raises(ConflictError):
        await kube.client.delete(THINGS, "one", uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(ConflictError):
        await kube.client.delete(THINGS, "one", resource_version="1")
    await kube.client.delete(THINGS, "one", uid=made.metadata.uid)
    assert not await exists(kube.client, "one")


async def test_a_finalizer_holds_an_object(kube: Kube) -> None:
    """It is marked as going, its name is not free yet, and it goes with the finalizer."""
    await kube.client.create(THINGS, kube.thing("one", finalizers=["test.io/hold"]))
    await kube.client.delete(THINGS, "one")
    going = await kube.client.get(THINGS, "one")
    assert going.metadata.deletion_timestamp is not None
    with pytest.raises(AlreadyExistsError):
        await kube.client.create(THINGS, kube.thing("one"))
    await kube.client.patch(THINGS, "one", merge({"metadata": {"finalizers": []}}))
    assert not await exists(kube.client, "one")


async def test_all_that_fit_are_deleted(kube: Kube) -> None:
    """The others stay."""
    for name in "abc":
        await kube.client.create(THINGS, kube.thing(name, labels={"keep": str(name == "c").lower()}))
    await kube.client.delete_all(THINGS, labels="keep=false")
    await until(lambda: only(kube, ["c"]), "only c is left")


async def only(kube: Kube, names: list[str]) -> bool:
    return [thing.metadata.name for thing in (await kube.client.list(THINGS)).items] == names


@pytest.mark.parametrize("propagation", ["", "Background", "Foreground"])
async def test_what_an_object_owns_goes_with_it(kube: Kube, propagation: str) -> None:
    """Whoever has another owner left stays."""
    owners = [await kube.client.create(THINGS, kube.thing(name)) for name in ("first", "second")]
    references = [{"apiVersion": THINGS.api_version, "kind": "Thing", "name": o.metadata.name, "uid": o.metadata.uid} for o in owners]
    await kube.client.create(CONFIG_MAPS, {"metadata": {"name": "owned", "ownerReferences": references[:1]}})
    await kube.client.create(CONFIG_MAPS, {"metadata": {"name": "shared", "ownerReferences": references}})
    await kube.client.delete(THINGS, "first", propagation=propagation)

    async def gone() -> bool:
        names = {item.metadata.name for item in (await kube.client.list(CONFIG_MAPS)).items}
        return "owned" not in names and "shared" in names

    await until(gone, "what was owned is gone")


async def test_orphans_stay(kube: Kube) -> None:
    """With propagation Orphan the owner goes alone."""
    owner = await kube.client.create(THINGS, kube.thing("first"))
    reference = {"apiVersion": THINGS.api_version, "kind": "Thing", "name": "first", "uid": owner.metadata.uid}
    await kube.client.create(CONFIG_MAPS, {"metadata": {"name": "owned", "ownerReferences": [reference]}})
    await kube.client.delete(THINGS, "first", propagation="Orphan")

    async def orphaned() -> bool:
        return not await exists(kube.client, "first")

    await until(orphaned, "the owner is gone")
    assert (await kube.client.get(CONFIG_MAPS, "owned")).metadata.owner_references == ()


async def test_secrets_are_bytes(kube: Kube) -> None:
    """Base64 stays on the wire."""
    await kube.client.create(SECRETS, encode({"metadata": {"name": "s"}, "data": {"token": b"\x00\xff"}}))
    assert (await kube.client.get(SECRETS, "s")).data == {"token": b"\x00\xff"}


async def test_two_who_replace_a_lease_at_once_are_one_winner(kube: Kube) -> None:
    """That is what leases are made of."""
    made = await kube.client.create(LEASES, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "nobody"}})
    bodies = [
        {"metadata": {"name": "l", "resourceVersion": made.metadata.resource_version}, "spec": {"holderIdentity": who}}
        for who in ("a", "b")
    ]
    results = await asyncio.gather(*(kube.client.replace(LEASES, "l", body) for body in bodies), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ConflictError", "Lease"]


async def test_a_token_of_nobody_is_reviewed_as_such(kube: Kube) -> None:
    """The answer is no error: it says that the token is nobody's."""
    assert not (await kube.client.review_token("no-such-token")).authenticated


async def test_the_server_says_its_version(kube: Kube) -> None:
    """As two numbers."""
    assert await kube.client.server_version() >= (1, 30)


async def test_an_expired_page_is_told(kube: Kube) -> None:
    """A continue token that the server does not know is Expired or a bad request, never an empty page."""
    with pytest.raises((ExpiredError, BadRequestError)):
        await kube.client.transport.call("GET", kube.client.path(THINGS, None), {"limit": "1", "continue": "bm9uc2Vuc2U"})


async def test_a_claim_is_bound_or_waits(kube: Kube) -> None:
    """A class that nobody provides for leaves it pending."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "no-such-class"}
    made = await kube.client.create(CLAIMS, {"metadata": {"name": "c"}, "spec": spec})
    assert (made.status.phase, made.spec.storage_class_name) == ("Pending", "no-such-class")
    await kube.client.delete(CLAIMS, "c")
