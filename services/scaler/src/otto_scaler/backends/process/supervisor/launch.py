"""What a supervisor is told: written by the service into an anonymous file that is the supervisor's standard input, so that what
it is told lies in no file of its own. Values of secrets do lie on disk, in the worker's `secrets`, for whoever has to mask them.

The format is `key=value` fields, each ended by NUL, which no argument, variable or path can hold; reading it needs no module.
"""


class Launch:
    """One worker to run. Everything is bytes: that is what the kernel takes."""

    __slots__ = (
        "argv",
        "brand",
        "commit",
        "cores",
        "descriptors",
        "env",
        "grace",
        "mark",
        "memory",
        "own",
        "repository",
        "timeout",
        "working_directory",
        "workspace",
    )

    def __init__(
        self,
        argv: list[bytes],
        env: dict[bytes, bytes],
        workspace: bytes,
        working_directory: bytes = b"",
        timeout: float = 3600.0,
        grace: float = 10.0,
        memory: int = 0,
        cores: int = 0,
        repository: bytes = b"",
        commit: bytes = b"",
        mark: bytes = b"",
        own: bytes = b"",
        brand: int = 0,
        descriptors: int = 0,
    ) -> None:
        """`timeout` and `grace` are seconds, `memory` bytes (0: no limit), `cores` a number of them (0: all).

        `mark` names the attempt: of the workers of one attempt that share a workspace, only the first checks out.
        `descriptors` is how many files its programs may have open (0: as many as the supervisor). By `brand` its processes are known,
        whatever they make of their environment and their session (0: they are not).
        `own` is the directory of its own files, none of which we believe.
        """
        self.argv = argv
        self.env = env
        self.workspace = workspace
        self.working_directory = working_directory
        self.timeout = timeout
        self.grace = grace
        self.memory = memory
        self.cores = cores
        self.repository = repository
        self.commit = commit
        self.mark = mark
        self.own = own
        self.brand = brand
        self.descriptors = descriptors


def encode(launch: Launch) -> bytes:
    """The fields of a launch. Raises ValueError for a NUL in any of them."""
    fields = [b"argv=" + argument for argument in launch.argv]
    fields += [b"env=" + name + b"=" + value for name, value in launch.env.items()]
    for name in ("workspace", "working_directory", "repository", "commit", "mark", "own"):
        fields.append(name.encode() + b"=" + getattr(launch, name))
    for name in ("timeout", "grace", "memory", "cores", "brand", "descriptors"):
        fields.append(f"{name}={getattr(launch, name)!r}".encode())
    if any(b"\0" in field for field in fields):
        raise ValueError("a NUL character can't be handed to a program")
    return b"\0".join(fields) + b"\0"


def decode(data: bytes) -> Launch:
    """The launch that `encode` wrote. Raises ValueError or KeyError for anything else."""
    argv: list[bytes] = []
    env: dict[bytes, bytes] = {}
    single: dict[bytes, bytes] = {}
    for field in data.split(b"\0")[:-1]:
        key, equals, value = field.partition(b"=")
        if not equals:
            raise ValueError("a field without a value")
        if key == b"argv":
            argv.append(value)
        elif key == b"env":
            name, _, content = value.partition(b"=")
            env[name] = content
        else:
            single[key] = value
    return Launch(
        argv,
        env,
        single[b"workspace"],
        single[b"working_directory"],
        float(single[b"timeout"]),
        float(single[b"grace"]),
        int(single[b"memory"]),
        int(single[b"cores"]),
        single[b"repository"],
        single[b"commit"],
        single[b"mark"],
        single[b"own"],
        int(single[b"brand"]),
        int(single[b"descriptors"]),
    )
