"""The composition root of standalone: the three services' roots on one server, dialling each other through its port."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec

from otto_executor.app import executor_component
from otto_executor.settings import Settings as ExecutorSettings
from otto_kubekit.settings import KubeSettings
from otto_relay.app import relay_component
from otto_relay.settings import Settings as RelaySettings
from otto_runtime.launch import Compose, StartError
from otto_runtime.server import Component
from otto_runtime.settings import RuntimeSettings
from otto_scaler.app import scaler_component
from otto_scaler.settings import Settings as ScalerSettings
from otto_standalone.settings import Settings, state_dir
from otto_standalone.state import StateUnusableError, held

KINDS: dict[str, type[msgspec.Struct]] = {
    "OTTO": RuntimeSettings,
    "OTTO_STANDALONE": Settings,
    "OTTO_SCALER": ScalerSettings,
    "OTTO_EXECUTOR": ExecutorSettings,
    "OTTO_RELAY": RelaySettings,
    "OTTO_KUBE": KubeSettings,
}
"""Which settings are read, in the order that `compose` takes them."""


def compose(settings: Sequence[msgspec.Struct]) -> Compose:
    """The roots for settings read in the order of KINDS.

    The address is known once the port is held, so the roots are made then; each gets it as its peers' address.
    """
    _, own, scaler, executor, relay, kube = settings
    state = state_dir(cast("Settings", own))
    replace = msgspec.structs.replace

    def roots(address: str, _: RuntimeSettings) -> Sequence[AbstractAsyncContextManager[Component]]:
        workers = state / "workers"
        return [
            holding(
                state,
                scaler_component(
                    replace(cast("ScalerSettings", scaler), workers_dir=str(workers), workspaces_dir=str(state / "workspaces")),
                    address,
                    kube=cast("KubeSettings", kube),
                ),
            ),
            executor_component(
                replace(cast("ExecutorSettings", executor), database=state / "runs.sqlite"), address, cast("KubeSettings", kube)
            ),
            relay_component(
                replace(cast("RelaySettings", relay), workers_dir=workers, spool_dir=state / "spool"),
                address,
                address,
                kube=cast("KubeSettings", kube),
            ),
        ]

    return roots


@asynccontextmanager
async def holding(state: Path, component: AbstractAsyncContextManager[Component]) -> AsyncIterator[Component]:
    """The component, within the state directory held against other instances. Raises StartError."""
    try:
        with held(state):
            async with component as entered:
                yield entered
    except StateUnusableError as error:
        raise StartError(str(error)) from error
