"""The only code that knows Kubernetes: credentials, a client, watching, leases; `testing` has a cluster for tests.

It knows nothing of Ottoscaler and imports no other package of this repository. `kubernetes` gives credentials and TLS, aiohttp carries the
requests, msgspec reads the answers; the typed models of `kubernetes` are never imported (they cost 160 MB). Who uses this package:

    connecting   `async with connect(KubeSettings()) as client`; the one module to import `kubernetes`
    client       list, get, create, replace, patch, apply, delete, review of tokens; every call has a deadline
    kinds        where objects live (PODS, LEASES …), and how to say it of a kind of one's own
    objects      what we read of them, as Structs
    bodies       what we send, as bytes
    errors       the one tree of what can go wrong
    watching     forever / list-then-watch / one connection: Added, Modified, Deleted, Synced, Interrupted
    election     one of several holds a Lease

Importing this package, `settings`, `objects`, `kinds`, `bodies` or `errors` costs next to nothing; the others bring aiohttp, and
`connecting` also `kubernetes`.
"""
