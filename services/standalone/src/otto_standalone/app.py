"""The composition root of standalone: the three services' roots on one server, dialling each other through its port."""


import msgspec
from otto_executor.settings import Settings as ExecutorSettings
from otto_relay.settings import Settings as RelaySettings
from otto_scaler.settings import Settings as ScalerSettings

from otto_runtime.settings import RuntimeSettings
from otto_standalone.settings import Settings

KINDS: dict[str, type[msgspec.Struct]] = {
    "OTTO": RuntimeSettings,
    "OTTO_STANDALONE": Settings,
    "OTTO_SCALER": ScalerSettings,
    "OTTO_EXECUTOR": ExecutorSettings,
    "OTTO_RELAY": RelaySettings,
}
"""Which settings are read, in the order that `compose` takes them."""
