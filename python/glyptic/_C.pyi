# Made by python/make_stubs.py; do not edit.
from __future__ import annotations

import collections.abc
import typing

import torch

class Error(Exception):
    """Base of all errors that Glyptic raises on purpose."""

class ArgumentError(Error, ValueError):
    """An argument has a value that it cannot take."""

class ConfigError(Error, ValueError):
    """An option is unknown, of the wrong type, or out of range."""

class DataError(Error, ValueError):
    """A file is damaged or of another kind."""

class DivergenceError(Error, ArithmeticError):
    """The loss, a gradient or a weight is not finite."""

class MissingFileError(Error, FileNotFoundError):
    """A file or folder is not there or cannot be opened."""

class ChannelGroup:
    """
    Rows of one weight that other weights read as input slices.
    """
    def __init__(
        self,
        active: str,
        channels: typing.SupportsInt,
        passive: collections.abc.Sequence[tuple[str, typing.SupportsInt, typing.SupportsInt, typing.SupportsInt]],
        companions: collections.abc.Sequence[
            tuple[str, typing.SupportsInt, typing.SupportsInt, typing.SupportsInt]
        ] = [],
    ) -> None: ...
    def __repr__(self) -> str: ...
    @property
    def active(self) -> str: ...
    @property
    def channels(self) -> int: ...
    @property
    def companion_slices(self) -> list[tuple[str, int, int, int]]: ...
    @property
    def passive(self) -> list[str]: ...
    @property
    def passive_slices(self) -> list[tuple[str, int, int, int]]: ...

class Graph:
    """
    A network as data: nodes in topological order and the tensors they use.
    """
    @staticmethod
    def from_json(text: str) -> Graph: ...
    def cost(self) -> dict[str, typing.Any]: ...
    def groups(self) -> dict[str, int]: ...
    def initial_tensors(self, seed: typing.SupportsInt = 0) -> list[tuple[str, torch.Tensor]]: ...
    def node_shapes(self) -> list[list[int]]: ...
    def prunable_groups(self, conv_to_linear: bool = False) -> list[ChannelGroup]: ...
    def tensor_shapes(self) -> list[tuple[str, list[int]]]: ...
    def to_json(self) -> str: ...
    def trainable(self) -> list[str]: ...
    def validate(self) -> None: ...

class Model:
    """
    A graph bound to tensors, which are shared.
    """
    def __init__(self, graph: Graph, tensors: collections.abc.Sequence[tuple[str, torch.Tensor]]) -> None: ...
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...
    def train(self, on: bool = True) -> None: ...

class Sparsifier:
    def __init__(
        self,
        parameters: collections.abc.Sequence[tuple[str, torch.Tensor]],
        prunable: collections.abc.Sequence[str],
        options: dict[str, typing.Any],
        groups: collections.abc.Sequence[ChannelGroup] = [],
        state: collections.abc.Sequence[tuple[str, torch.Tensor]] = [],
    ) -> None: ...
    def apply_masks(self) -> None: ...
    def begin_step(self) -> tuple[typing.Any, ...]: ...
    def end_step(
        self,
        grads: collections.abc.Sequence[torch.Tensor | None],
        states: collections.abc.Sequence[collections.abc.Sequence[torch.Tensor]],
        masked: bool = False,
        skipped: bool = False,
    ) -> None: ...
    def events(self) -> list[typing.Any]: ...
    def liveness(self) -> list[tuple[str, torch.Tensor]]: ...
    def load_state(self, state: collections.abc.Sequence[tuple[str, torch.Tensor]], strict: bool = True) -> None: ...
    def masks(self) -> list[tuple[str, torch.Tensor]]: ...
    def remove(self) -> None: ...
    def set_reduce_scores(self, function: collections.abc.Callable[..., typing.Any]) -> None: ...
    def state(self) -> list[tuple[str, torch.Tensor]]: ...
    def stats(self) -> dict[str, typing.Any]: ...

class ExtractionPlan:
    """
    Which channels stay, as data.
    """
    @staticmethod
    def from_json(text: str) -> ExtractionPlan: ...
    def __str__(self) -> str: ...
    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor: ...
    def apply_all(
        self, tensors: collections.abc.Sequence[tuple[str, torch.Tensor]]
    ) -> list[tuple[str, torch.Tensor]]: ...
    def expand(self, name: str, small: torch.Tensor, fill: typing.SupportsFloat = 0.0) -> torch.Tensor: ...
    def to_json(self) -> str: ...
    @property
    def dims(self) -> list[typing.Any]: ...
    @property
    def graph(self) -> Graph: ...
    @property
    def notes(self) -> list[str]: ...

class AxisMember:
    """
    A dimension of a tensor that loses entries with a group.
    """
    def __repr__(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def tensor(self) -> str: ...

class AxisGroup:
    """
    Units that can be removed one by one.
    """
    def __repr__(self) -> str: ...
    @property
    def inexact_because(self) -> str: ...
    @property
    def inner(self) -> list[int]: ...
    @property
    def members(self) -> list[AxisMember]: ...
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...

class AxisGraph:
    """
    Which entries of which dimensions live and die together.
    """
    def __init__(self) -> None: ...
    def add(
        self,
        name: str,
        rule: str,
        inputs: collections.abc.Sequence[typing.SupportsInt],
        shape: collections.abc.Sequence[typing.SupportsInt],
        ints: collections.abc.Sequence[typing.SupportsInt] = [],
        word: str = "",
    ) -> int: ...
    def all(self) -> list[list[int]]: ...
    def fixed_because(self, tensor: str, dim: typing.SupportsInt) -> str: ...
    def groups(self) -> list[AxisGroup]: ...
    def kept(
        self,
        tensor: str,
        dim: typing.SupportsInt,
        alive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt]],
    ) -> list[int]: ...
    def kept_of_node(
        self,
        node: typing.SupportsInt,
        dim: typing.SupportsInt,
        alive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt]],
    ) -> list[int]: ...
    def nodes(self) -> list[typing.Any]: ...
    def tensors(self) -> list[tuple[str, list[int]]]: ...
    def units(self, tensor: str, dim: typing.SupportsInt) -> list[list[tuple[int, int]]]: ...

class GroupPlan:
    """
    What stays of one group.
    """
    def __repr__(self) -> str: ...
    @property
    def kept(self) -> list[int]: ...
    @property
    def members(self) -> list[AxisMember]: ...
    @property
    def name(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def size(self) -> int: ...

class PrunePlan:
    """
    Which units stay, as data.
    """
    @staticmethod
    def from_json(text: str) -> PrunePlan: ...
    def __str__(self) -> str: ...
    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor: ...
    def mask(self, name: str, tensor: torch.Tensor) -> torch.Tensor: ...
    def to_json(self) -> str: ...
    @property
    def dims(self) -> list[typing.Any]: ...
    @property
    def groups(self) -> list[GroupPlan]: ...

class SharpnessResult:
    @property
    def ascended(self) -> bool: ...
    @property
    def backwards(self) -> int: ...
    @property
    def forwards(self) -> int: ...
    @property
    def gradient_norm(self) -> typing.Any: ...
    @property
    def growth(self) -> list[typing.Any]: ...
    @property
    def loss(self) -> typing.Any: ...
    @property
    def losses(self) -> typing.Any: ...
    @property
    def perturbed_norm(self) -> typing.Any: ...
    @property
    def skipped(self) -> bool: ...

class Sharpness:
    def __init__(
        self, parameters: collections.abc.Sequence[tuple[str, torch.Tensor]], keywords: dict[str, typing.Any]
    ) -> None: ...
    def cancel(self) -> None: ...
    def first_step(
        self,
        base: typing.Any,
        lr: collections.abc.Sequence[typing.SupportsFloat],
        masks: collections.abc.Sequence[torch.Tensor | None],
    ) -> None: ...
    def load_state(self, arg0: collections.abc.Sequence[tuple[str, torch.Tensor]]) -> None: ...
    def restore(self) -> None: ...
    def rho(self, index: typing.SupportsInt, lr: typing.SupportsFloat) -> float: ...
    def second_step(self, base: typing.Any, lr: collections.abc.Sequence[typing.SupportsFloat]) -> None: ...
    def set_rho(self, rho: collections.abc.Sequence[typing.SupportsFloat]) -> None: ...
    def set_statistics(self, statistics: collections.abc.Sequence[torch.Tensor]) -> None: ...
    def state(self) -> list[tuple[str, torch.Tensor]]: ...
    def step(
        self,
        objective: typing.Any,
        base: typing.Any,
        lr: collections.abc.Sequence[typing.SupportsFloat],
        masks: collections.abc.Sequence[torch.Tensor | None],
        gradient_only: bool = False,
        keep_growth: bool = False,
    ) -> SharpnessResult: ...
    @property
    def between(self) -> bool: ...
    @property
    def skipped_steps(self) -> int: ...
    @property
    def steps(self) -> int: ...

class ImageSet:
    """
    8-bit images that are read on demand.
    """
    def __len__(self) -> int: ...
    def description(self) -> str: ...
    def num_classes(self) -> int: ...
    def read(self, index: typing.SupportsInt) -> tuple[torch.Tensor, int]: ...

class LossSurface:
    """
    The mean loss over fixed data as a function of the weights.
    """
    def __init__(
        self,
        parameters: collections.abc.Sequence[tuple[str, torch.Tensor]],
        loss: collections.abc.Callable[..., typing.Any],
        samples: collections.abc.Sequence[typing.SupportsInt],
        masks: collections.abc.Sequence[torch.Tensor | None] = [],
        buffers: collections.abc.Sequence[tuple[str, torch.Tensor]] = [],
    ) -> None: ...
    def block_eigenvalues(
        self,
        n: typing.SupportsInt,
        which: str,
        method: str,
        max_iter: typing.SupportsInt,
        stop: str,
        tol: typing.SupportsFloat,
        seed: typing.SupportsInt,
        differences: bool,
        step: typing.SupportsFloat,
        names: collections.abc.Sequence[str],
    ) -> dict[str, typing.Any]: ...
    def flatten(self, tensors: collections.abc.Sequence[torch.Tensor]) -> torch.Tensor: ...
    def given_landscape(
        self,
        axes: collections.abc.Sequence[tuple[typing.SupportsFloat, typing.SupportsFloat, typing.SupportsInt]],
        directions: collections.abc.Sequence[collections.abc.Sequence[tuple[str, torch.Tensor]]],
    ) -> dict[str, typing.Any]: ...
    def gradient(self) -> torch.Tensor: ...
    def gradient_variance(self) -> float: ...
    def interpolation(
        self,
        axis: tuple[typing.SupportsFloat, typing.SupportsFloat, typing.SupportsInt],
        other: collections.abc.Sequence[tuple[str, torch.Tensor]],
        states: bool,
    ) -> dict[str, typing.Any]: ...
    def loss(self) -> float: ...
    def measure(
        self,
        kind: str,
        radius: typing.SupportsFloat,
        count: typing.SupportsInt = 1,
        linf: bool = False,
        adaptive: bool = False,
        restarts: typing.SupportsInt = 1,
        seed: typing.SupportsInt = 0,
    ) -> tuple[typing.Any, ...]: ...
    def names(self) -> list[str]: ...
    def product(
        self, vectors: torch.Tensor, differences: bool = False, step: typing.SupportsFloat = 0.01
    ) -> torch.Tensor: ...
    def random_landscape(
        self,
        axes: collections.abc.Sequence[tuple[typing.SupportsFloat, typing.SupportsFloat, typing.SupportsInt]],
        seed: typing.SupportsInt,
        norm: str,
        ignore: str,
        states: bool,
    ) -> dict[str, typing.Any]: ...
    def spectral_density(
        self,
        runs: typing.SupportsInt,
        steps: typing.SupportsInt,
        points: typing.SupportsInt,
        seed: typing.SupportsInt,
        differences: bool,
        step: typing.SupportsFloat,
    ) -> dict[str, typing.Any]: ...
    def split(self, vector: torch.Tensor) -> list[torch.Tensor]: ...
    def top_eigenvalues(
        self,
        n: typing.SupportsInt,
        which: str,
        method: str,
        max_iter: typing.SupportsInt,
        stop: str,
        tol: typing.SupportsFloat,
        seed: typing.SupportsInt,
        differences: bool,
        step: typing.SupportsFloat,
    ) -> dict[str, typing.Any]: ...
    def trace(
        self,
        max_samples: typing.SupportsInt,
        tol: typing.SupportsFloat,
        seed: typing.SupportsInt,
        differences: bool,
        step: typing.SupportsFloat,
    ) -> dict[str, typing.Any]: ...
    @property
    def active(self) -> int: ...
    @property
    def products(self) -> int: ...
    @property
    def size(self) -> int: ...

def alexnet_errors() -> dict[str, list[float]]: ...
def alive_of(graph: AxisGraph, plan: PrunePlan) -> list[list[int]]: ...
def bootstrap_interval(
    data: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, typing.SupportsInt, typing.SupportsInt],
    metric: str,
    options: tuple[typing.SupportsInt, str, str, str, typing.SupportsInt],
    replicates: typing.SupportsInt,
    level: typing.SupportsFloat,
    seed: typing.SupportsInt,
) -> dict[str, typing.Any]: ...
def build_graph(
    name: str,
    num_classes: typing.SupportsInt = 0,
    input_shape: collections.abc.Sequence[typing.SupportsInt] = [],
    widths: collections.abc.Sequence[typing.SupportsInt] = [],
    width: typing.SupportsFloat = 1.0,
    dropout: typing.SupportsFloat = 0.0,
) -> Graph: ...
def cli(arguments: collections.abc.Sequence[str]) -> int:
    """
    The command line; returns the exit code.
    """

def corrupt(
    images: torch.Tensor, name: str, severity: typing.SupportsInt, options: dict[str, typing.Any]
) -> torch.Tensor: ...
def corruption_error(
    errors: collections.abc.Mapping[str, collections.abc.Sequence[typing.SupportsFloat]],
    baseline: collections.abc.Mapping[str, collections.abc.Sequence[typing.SupportsFloat]],
) -> dict[str, float]: ...
def corruption_names(subset: str = "all") -> list[str]: ...
def corruption_parameters(
    name: str, severity: typing.SupportsInt, table: typing.SupportsInt
) -> dict[str, typing.Any]: ...
def corruption_subsets() -> list[str]: ...
def corruption_table(height: typing.SupportsInt, width: typing.SupportsInt) -> int: ...
def degradation_disparity(
    clean: collections.abc.Sequence[typing.SupportsFloat],
    corrupted: collections.abc.Sequence[typing.SupportsFloat],
    reduce: str,
    relative: bool,
    is_signed: bool,
    reference: typing.SupportsInt,
    counts: collections.abc.Sequence[typing.SupportsFloat],
) -> float: ...
def describe(name: str) -> str: ...
def erk_densities(
    shapes: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt]],
    density: typing.SupportsFloat,
    power: typing.SupportsFloat = 1.0,
) -> list[float]: ...
def fair_sample_weights(
    groups: torch.Tensor,
    labels: torch.Tensor,
    kind: str,
    given: torch.Tensor | None,
    group_count: typing.SupportsInt,
    classes: typing.SupportsInt,
) -> tuple[typing.Any, ...]: ...
def fairness_metric(
    data: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, typing.SupportsInt, typing.SupportsInt],
    metric: str,
    options: tuple[typing.SupportsInt, str, str, str, typing.SupportsInt],
) -> tuple[float, list[int]]: ...
def fairness_metrics() -> list[str]: ...
def fairness_one_vs_rest(
    data: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, typing.SupportsInt, typing.SupportsInt],
    metric: str,
    options: tuple[typing.SupportsInt, str, str, str, typing.SupportsInt],
) -> dict[str, typing.Any]: ...
def group_auc(
    positives: torch.Tensor,
    scores: torch.Tensor,
    groups: torch.Tensor,
    weights: torch.Tensor | None,
    group_count: typing.SupportsInt,
) -> list[float]: ...
def group_table(
    data: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, typing.SupportsInt, typing.SupportsInt],
    positive: typing.SupportsInt,
    undefined: str,
) -> tuple[typing.Any, ...]: ...
def layer_counts(
    densities: collections.abc.Sequence[typing.SupportsFloat],
    sizes: collections.abc.Sequence[typing.SupportsInt],
    total: typing.SupportsInt = -1,
    minimum: typing.SupportsInt = 1,
) -> list[int]: ...
def layer_densities(
    layers: collections.abc.Sequence[tuple[str, collections.abc.Sequence[typing.SupportsInt]]],
    density: typing.SupportsFloat,
    distribution: str = "erk",
    power: typing.SupportsFloat = 1.0,
    custom: collections.abc.Mapping[str, typing.SupportsFloat] = {},
) -> list[float]: ...
def load_landscape(path: str) -> dict[str, typing.Any]: ...
def load_safetensors(path: str) -> tuple[typing.Any, ...]: ...
def model_names() -> list[str]: ...
def model_summary(name: str) -> str: ...
def normalized_overfitting_gap(train: typing.SupportsFloat, test: typing.SupportsFloat) -> float: ...
def plan_extraction(
    graph: Graph,
    tensors: collections.abc.Sequence[tuple[str, torch.Tensor]],
    liveness: collections.abc.Sequence[tuple[str, torch.Tensor]] = [],
    residual: str = "exempt",
    round_to: typing.SupportsInt = 1,
    absorb: bool = True,
    allow_inexact: bool = False,
) -> ExtractionPlan: ...
def plan_from_alive(
    graph: AxisGraph, alive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt]]
) -> PrunePlan: ...
def plan_pruning(
    graph: AxisGraph,
    tensors: collections.abc.Sequence[tuple[str, torch.Tensor]],
    gradients: collections.abc.Sequence[tuple[str, torch.Tensor]],
    options: dict[str, typing.Any],
) -> PrunePlan: ...
def read_cifar_c(
    folder: str, name: str, severity: typing.SupportsInt, classes: typing.SupportsInt
) -> tuple[torch.Tensor, torch.Tensor]: ...
def read_config(path: str) -> dict[str, typing.Any]:
    """
    Every option of a config file, as text.
    """

def read_imagenet_c(
    folder: str, name: str, severity: typing.SupportsInt, size: typing.SupportsInt = 224
) -> ImageSet: ...
def relative_corruption_error(
    errors: collections.abc.Mapping[str, collections.abc.Sequence[typing.SupportsFloat]],
    clean: typing.SupportsFloat,
    baseline: collections.abc.Mapping[str, collections.abc.Sequence[typing.SupportsFloat]],
    baseline_clean: typing.SupportsFloat,
) -> dict[str, float]: ...
def runs_in(path: str) -> list[str]:
    """
    The run folders that a path stands for.
    """

def save_landscape(
    path: str,
    a: collections.abc.Sequence[typing.SupportsFloat],
    b: collections.abc.Sequence[typing.SupportsFloat],
    loss: collections.abc.Sequence[typing.SupportsFloat],
    center: typing.SupportsFloat,
    cosine: typing.SupportsFloat,
    not_finite: typing.SupportsInt,
    settings: collections.abc.Mapping[str, str],
) -> None: ...
def save_safetensors(
    path: str,
    tensors: collections.abc.Sequence[tuple[str, torch.Tensor]],
    metadata: collections.abc.Mapping[str, str] = {},
) -> None: ...
def seed_groups(runs: collections.abc.Sequence[str]) -> list[typing.Any]:
    """
    Label, positions and seeds of the runs that differ in nothing but the seed.
    """

def set_ranks(group: str, rank: typing.SupportsInt, size: typing.SupportsInt) -> None:
    """
    The processes that the command line's runs are made of.
    """

def sharpness_methods() -> list[typing.Any]: ...
def sharpness_options(arg0: dict[str, typing.Any]) -> dict[str, typing.Any]: ...
def sparsity_methods() -> list[typing.Any]: ...
def sparsity_options(keywords: dict[str, typing.Any] = {}) -> dict[str, typing.Any]:
    """
    The options of the sparsity family after presets and keywords.
    """

def stream_id(name: str) -> int: ...
def summarize_corruptions(
    errors: collections.abc.Mapping[str, collections.abc.Sequence[typing.SupportsFloat]], clean: typing.SupportsFloat
) -> dict[str, typing.Any]: ...
def tabulate_results(paths: collections.abc.Sequence[str], raw: bool = False) -> tuple[typing.Any, ...]:
    """
    Titles, rows and notes of the table of results.json files, as `glyptic table` prints it.
    """

def unit_importance(
    graph: AxisGraph,
    tensors: collections.abc.Sequence[tuple[str, torch.Tensor]],
    gradients: collections.abc.Sequence[tuple[str, torch.Tensor]],
    options: dict[str, typing.Any],
) -> list[list[float]]: ...
def write_cifar_c(
    folder: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: typing.SupportsInt,
    names: collections.abc.Sequence[str],
    options: dict[str, typing.Any],
) -> None: ...

__version__: str = "0.1.0"
torch_version: str = "2.11.0+cu130"
with_cuda: bool = True
