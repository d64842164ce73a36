"""The typed shape of a run's configuration. Plug-ins (`Any`) are typed by the class their `_target_` names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from omegaconf import MISSING

from conf.errors import UsageError
from conf.uris import S3


def _require(holds: bool, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{key} is out of range", value=value, allowed=allowed)


@dataclass
class Duplicates:
    """Rows that are there more than once: `exact` ones, or those that agree in the columns `by`, of which the latest by `time` is kept.

    `time` null: the contract's.
    """

    by: Any = "exact"
    keep: str = "latest"
    time: str | None = None

    def __post_init__(self) -> None:
        named = not isinstance(self.by, str) and bool(self.by) and all(isinstance(name, str) for name in self.by)
        _require(self.by == "exact" or named, "dataset.duplicates.by", self.by, "exact, or a list of columns")
        _require(self.keep == "latest", "dataset.duplicates.keep", self.keep, "latest")
        _require(self.by != "exact" or self.time is None, "dataset.duplicates.time", self.time, "null with by=exact: such rows are equal")


@dataclass
class Dataset:
    """What is learned from. `contract` names a file of the `contract/` folder; `slices` are columns to report quality by.

    `duplicates` null: none are removed. `write`: the rows `replace` those of the table, or are added to them (`append`).
    """

    name: str = MISSING
    contract: str = MISSING
    source: Any = MISSING
    split: Any = MISSING
    slices: list[str] = field(default_factory=list)
    duplicates: Duplicates | None = None
    write: str = "replace"

    def __post_init__(self) -> None:
        _require(self.write in ("replace", "append"), "dataset.write", self.write, "replace, append")


@dataclass
class Encode:
    """A category keeps its `max_levels` most frequent levels, and only those with `min_rows` training rows."""

    max_levels: int = 250
    min_rows: int = 10

    def __post_init__(self) -> None:
        _require(1 <= self.max_levels <= 10_000, "encode.max_levels", self.max_levels, "1 to 10000")
        _require(self.min_rows >= 1, "encode.min_rows", self.min_rows, "1 or more")


@dataclass
class Search:
    """How trials are proposed. `space` maps a trainer parameter to a domain in Hydra's sweep grammar; overrides land here."""

    sampler: str = "tpe"
    startup_trials: int = 8
    prune: str = "halving"
    rungs: list[float] = field(default_factory=lambda: [0.1, 0.3])
    space: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.sampler in ("tpe", "random"), "search.sampler", self.sampler, "tpe, random")
        _require(self.prune in ("halving", "none"), "search.prune", self.prune, "halving, none")
        _require(self.startup_trials >= 1, "search.startup_trials", self.startup_trials, "1 or more")
        _require(all(0 < rung < 1 for rung in self.rungs) and self.rungs == sorted(self.rungs), "search.rungs", self.rungs, "rising shares")


@dataclass
class Sweep:
    """How much is searched. What trial n proposes depends only on trials up to n - `lag`, so that a sweep can be repeated.

    `metric` null: by task (log_loss; average_precision for rare positives; rmse). `folds` null: cross-validation on small tables only.
    """

    num_trials: int = 16
    max_concurrent: int | None = None
    lag: int = 4
    metric: str | None = None
    folds: int | None = None

    def __post_init__(self) -> None:
        _require(self.num_trials >= 1, "sweep.num_trials", self.num_trials, "1 or more")
        _require(self.lag >= 1, "sweep.lag", self.lag, "1 or more")
        _require(
            self.max_concurrent is None or 1 <= self.max_concurrent <= self.lag,
            "sweep.max_concurrent",
            self.max_concurrent,
            f"1 to sweep.lag ({self.lag}), or null for as many as fit",
        )
        _require(self.folds is None or 1 <= self.folds <= 20, "sweep.folds", self.folds, "1 to 20, or null")


@dataclass
class Policy:
    """What a candidate needs before it goes live."""

    name: str = MISSING
    approvals: int = 0
    release: str = "when_gates_pass"

    def __post_init__(self) -> None:
        _require(self.release in ("when_gates_pass", "never"), "policy.release", self.release, "when_gates_pass, never")
        _require(self.approvals == 0, "policy.approvals", self.approvals, "0 (approvals arrive with the review flow)")


@dataclass
class Cluster:
    """`local`: the platform of this store, started when needed. `existing`: the Ray cluster at `address`."""

    kind: str = "local"
    address: str | None = None
    cpus: int | None = None

    def __post_init__(self) -> None:
        _require(self.kind in ("local", "existing"), "cluster.kind", self.kind, "local, existing")
        _require(self.kind == "local" or bool(self.address), "cluster.address", self.address, "HOST:PORT of a running Ray head")
        _require(self.cpus is None or self.cpus >= 1, "cluster.cpus", self.cpus, "1 or more")


@dataclass
class StoreConfig:
    """`root` null: $RAYCYCLE_HOME, else ./.raycycle. `tracking` null: SQLite in the store; a password belongs into the environment.

    `tables` null: in the store; else s3://BUCKET/PREFIX, whose address and keys the environment alone holds (AWS_*).
    """

    root: str | None = None
    tracking: str | None = field(default=None, repr=False)
    tables: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        known = ("sqlite:///", "postgresql+psycopg://", "postgresql://", "http://", "https://")
        # Only the scheme is shown: the rest may hold a password.
        scheme = None if self.tracking is None else self.tracking.partition("/")[0].partition(":")[0]
        _require(self.tracking is None or self.tracking.startswith(known), "store.tracking", scheme, f"null, {', '.join(known)}")
        scheme = None if self.tables is None else self.tables.partition("/")[0]
        _require(self.tables is None or bool(S3.fullmatch(self.tables)), "store.tables", scheme, "null, or s3://BUCKET/PREFIX without keys")


@dataclass
class Serve:
    """`port` null: 8000, or the next free one."""

    port: int | None = None

    def __post_init__(self) -> None:
        _require(self.port is None or 1024 <= self.port <= 65_535, "serve.port", self.port, "1024 to 65535")


@dataclass
class Lineage:
    """Where a run's OpenLineage events are posted beside the file in the store; a key for it is read from $OPENLINEAGE_API_KEY."""

    url: str | None = None
    namespace: str = "raycycle"

    def __post_init__(self) -> None:
        allowed = "null, or http(s)://HOST[:PORT][/PATH] without a user, a password or a query"
        # Only the scheme is shown: the rest may hold a secret.
        _require(self.url is None or _is_plain_url(self.url), "lineage.url", (self.url or "").partition(":")[0], allowed)
        _require(bool(self.namespace.strip()), "lineage.namespace", self.namespace, "a name")


def _is_plain_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not (set(text) & set("@?#\\ "))
    except ValueError:  # a port beyond 65535, a broken IPv6 address
        return False


@dataclass
class Score:
    """The table a run scores at its end: rows of the snapshot that satisfy the rule `where` (null: the rows after the holdout)."""

    where: str | None = None
    by: str | None = None
    keep: list[str] = field(default_factory=list)


@dataclass
class RunConfig:
    """`snapshot`: the version of the table to learn from, as it lies in the store; null reads the source."""

    dataset: Dataset = field(default_factory=Dataset)
    trainer: Any = MISSING
    search: Search = field(default_factory=Search)
    sweep: Sweep = field(default_factory=Sweep)
    encode: Encode = field(default_factory=Encode)
    gates: dict[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    cluster: Cluster = field(default_factory=Cluster)
    store: StoreConfig = field(default_factory=StoreConfig)
    serve: Serve = field(default_factory=Serve)
    score: Score = field(default_factory=Score)
    lineage: Lineage = field(default_factory=Lineage)
    deploy: str = "auto"
    snapshot: int | None = None
    seed: int = 0
    plugins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _require(self.deploy in ("auto", "none"), "deploy", self.deploy, "auto, none")
        _require(self.snapshot is None or self.snapshot >= 0, "snapshot", self.snapshot, "a version (0 or more), or null for the source")
        _require(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")


@dataclass
class PlatformConfig:
    """What the words about the local platform and the registry may be told."""

    cluster: Cluster = field(default_factory=Cluster)
    store: StoreConfig = field(default_factory=StoreConfig)
    serve: Serve = field(default_factory=Serve)


@dataclass
class ScoringConfig:
    """What a scoring job may be told: input columns to `keep` beside the key and the prediction, and the share of bad rows allowed.

    `max_bad_fraction` null: that of the model's contract.
    """

    keep: list[str] = field(default_factory=list)
    max_bad_fraction: float | None = None
    cluster: Cluster = field(default_factory=Cluster)
    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        share = self.max_bad_fraction
        _require(share is None or 0 <= share <= 1, "max_bad_fraction", share, "0 to 1, or null for the contract's")


# The root configurations by the name of their YAML.
ROOTS: dict[str, tuple[str, type]] = {
    "pipeline": ("run_schema", RunConfig),
    "platform": ("platform_schema", PlatformConfig),
    "scoring": ("scoring_schema", ScoringConfig),
}
