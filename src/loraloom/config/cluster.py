"""Settings of `cluster launch` and `cluster run-all`: who takes part, how faults are seen, when a gang is restarted."""

from loraloom.config.base import Settings, setting


class ClusterConfig(Settings):
    """Supervision of a run on several machines."""

    verb = "cluster"

    port: int = setting(
        29500,
        "First of five TCP ports on the node of rank 0; each attempt uses the next one.",
        flag="--port",
        ge=1024,
        le=65530,
    )
    master: bool = setting(True, "Whether this machine trains too, as the node of rank 0.", flag="--master")
    master_address: str = setting(
        "",
        "IP address of this machine that the workers reach; empty: the address that the route to the first worker has.",
        flag="--master-address",
    )
    root: str = setting(
        "",
        "Folder of releases, data and runs on this machine; empty: loraloom-cluster in the home folder.",
        flag="--root",
    )
    min_nodes: int = setting(
        0,
        "Fewest nodes that a run continues with when others do not answer; 0: all of them.",
        flag="--min-nodes",
        ge=0,
        le=1024,
    )
    suspect_s: float = setting(
        30.0,
        "Seconds that a node may not answer before it counts as lost; shorter network faults cost nothing.",
        flag="--suspect",
        ge=1,
        le=3600,
    )
    lease_s: float = setting(
        60.0,
        "Seconds after which a node ends its processes when nobody asks for them; must be longer than --suspect.",
        flag="--lease",
        ge=2,
        le=86400,
    )
    stall_s: float = setting(
        1800.0,
        "Seconds without a new line, number or checkpoint of any process before the gang is restarted.",
        flag="--stall",
        ge=5,
        le=86400,
    )
    grace_s: float = setting(
        120.0,
        "Seconds that a polite stop may take: the step is finished and a checkpoint is saved.",
        flag="--grace",
        ge=1,
        le=3600,
    )
    poll_s: float = setting(1.0, "Seconds between two questions to each node.", flag="--poll", ge=0.1, le=60)
    rejoin_s: float = setting(
        20.0, "Seconds between two tries to reach a lost node while the others train.", flag="--rejoin", ge=1, le=3600
    )
    max_restarts: int = setting(
        5,
        "Restarts in a row without a new checkpoint between them before the run is given up.",
        flag="--max-restarts",
        ge=0,
        le=1000,
    )
    max_clock_offset_s: float = setting(
        2.0, "Largest difference in seconds between the clocks of a node and of this machine.", ge=0.1, le=3600
    )
    min_free_gib: float = setting(5.0, "Least free disk space of a node in GiB.", ge=0, le=100_000)
