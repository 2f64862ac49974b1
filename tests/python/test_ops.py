"""torch.ops.glyptic.*: schemas, registrations and torch.compile, by torch's own checker."""

import copy
import threading
import time

import glyptic
import pytest
import torch

ops = torch.ops.glyptic


def tensors(*shapes, dtype=torch.float32):
    return [torch.randn(shape).to(dtype) for shape in shapes]


def masks_like(list_of_tensors, density=0.5):
    return [torch.rand(t.shape) < density for t in list_of_tensors]


def zero_off_mask(masks, weights, grads, *states):
    """Arguments that keep the promise of off_mask_is_zero."""
    clear = lambda list_of_tensors: [torch.where(mask, t, 0) for mask, t in zip(masks, list_of_tensors)]
    return clear(weights), grads, *map(clear, states), masks


def cases():
    shapes = (4, 3), (2, 3, 3, 3), (5,)
    w, g, v, m = (tensors(*shapes) for _ in range(4))
    s = [t.square() for t in tensors(*shapes)]
    steps = [torch.randint(0, 9, t.shape, dtype=torch.int32) for t in w]
    masks, new_masks = masks_like(w), masks_like(w)
    yield ops.masked_sgd_, (w, g, v, masks), {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    yield ops.masked_sgd_, (w, g, [], []), {"lr": 0.1}
    yield ops.masked_sgd_, zero_off_mask(masks, w, g, v), {"lr": 0.1, "momentum": 0.9, "off_mask_is_zero": True}
    yield ops.masked_adamw_, (*zero_off_mask(masks, w, g, m, s), []), {"lr": 1e-3, "off_mask_is_zero": True}
    yield ops.masked_adamw_, (w, g, m, s, masks, []), {"lr": 1e-3, "step": 3}
    yield ops.masked_adamw_, (w, g, m, s, [], steps), {"lr": 1e-3, "decoupled": False}
    origins = tensors(*shapes)
    yield ops.restore_sgd_, (w, origins, g, v, masks), {"lr": 0.1, "momentum": 0.9}
    yield ops.restore_adamw_, (w, origins, g, m, s, masks, []), {"lr": 1e-3, "step": 2}
    norm = torch.tensor([2.0], dtype=torch.float64)
    yield ops.inner_products, (w, g, v, masks), {"eta": 0.01}
    yield ops.inner_products, (w, [], [], []), {}
    yield ops.ascend_, (w, v, g, norm, masks), {"rho": [0.1], "adaptive": True, "eta": 0.01}
    yield ops.ema_direction_, (g, v, masks), {"sigma": 1.0, "ema": 0.9}
    yield ops.combine_, (w, g, torch.tensor([1.0, 0.5], dtype=torch.float64)), {}
    yield ops.noise_ascend_, (w, origins, masks, norm), {"seed": 1, "streams": [3], "distribution": "rademacher"}
    yield ops.mask_apply_, (w, masks), {}
    yield ops.topk_masks, (w, [], [], [], [3, 5, 1]), {}
    yield ops.topk_masks, (w, g, [torch.ones_like(x) for x in masks], [], [9]), {
        "across_tensors": True,
        "score": "mest",
        "mest_lambda": 0.5,
    }
    yield ops.mask_update_, (w, masks, [*v, m[0]], [2, 1, 1], new_masks), {}
    yield ops.channel_scores, (w, masks), {"score": "masked_mean"}
    yield ops.channel_gather, (w[1], torch.tensor([1, 0]), torch.tensor([2])), {}
    yield ops.channel_gather, (w[0], None, torch.tensor([2])), {}
    yield ops.philox_fill_, (torch.empty(7, 3),), {"seed": 1, "stream": 2, "distribution": "normal"}


def fix_states(op, args):
    """The state tensors of mask_update_ must have their weights' shapes."""
    if op is not ops.mask_update_:
        return args
    w, masks, states, counts, new_masks = args
    states = [torch.randn(w[i].shape) for i, count in enumerate(counts) for _ in range(count)]
    return w, masks, states, counts, new_masks


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0].__name__)
def test_opcheck(case):
    op, args, kwargs = case
    torch.library.opcheck(op.default, fix_states(op, args), kwargs)


@pytest.mark.parametrize("key", ["CPU", "CUDA", "Meta", "CompositeExplicitAutograd", "Autograd"])
def test_registered(key):
    for name in (
        "masked_sgd_ masked_adamw_ restore_sgd_ restore_adamw_ mask_apply_ topk_masks mask_update_ channel_scores "
        "channel_gather philox_fill_ inner_products ascend_ ema_direction_ combine_ noise_ascend_"
    ).split():
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"glyptic::{name}", key), name


def test_compiled_step_equals_eager():
    w, g, v = (tensors((6, 5), (3,)) for _ in range(3))
    masks = masks_like(w)

    def step(w, g, v):
        ops.masked_sgd_(w, g, v, masks, lr=0.1, momentum=0.9)
        return [t * 2 for t in w]

    w2, v2 = [t.clone() for t in w], [t.clone() for t in v]
    expected = step(w, g, v)
    result = torch.compile(step, backend="aot_eager", fullgraph=True)(w2, g, v2)
    for a, b in zip(expected + w + v, result + w2 + v2):
        assert torch.equal(a, b)


def test_leaves_that_require_grad():
    w = torch.ones(4, requires_grad=True)
    version = w._version
    ops.masked_sgd_([w], [torch.ones(4)], [], [torch.tensor([True, False, True, True])], lr=0.5)
    assert w.tolist() == [0.5, 0, 0.5, 0.5]
    assert w._version == version + 1 and w.is_leaf and w.requires_grad


def test_empty_lists():
    ops.masked_sgd_([], [], [], [], lr=0.1)
    assert ops.topk_masks([], [], [], [], []) == []
    assert ops.mask_update_([], [], [], [], []).shape == (0, 3)


def test_refusals_name_the_argument():
    w = tensors((4, 4))
    with pytest.raises(glyptic.ArgumentError, match=r"masks\[0\] has shape \[4, 3\], but weights\[0\] has \[4, 4\]"):
        ops.masked_sgd_(w, w, [], [torch.ones(4, 3, dtype=torch.bool)], lr=0.1)
    with pytest.raises(glyptic.ArgumentError, match="score is 'magnitud', expected one of magnitude, mest"):
        ops.topk_masks(w, [], [], [], [1], score="magnitud")
    with pytest.raises(glyptic.ArgumentError, match="state_counts add up to 0, but states has 1 tensors"):
        mask = torch.ones(4, 4, dtype=torch.bool)
        ops.mask_update_(w, [mask], [torch.zeros(4, 4)], [0], [mask])


def flat(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from flat(value)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0].__name__)
def test_no_graph_break(case):
    """Each operator inside a compiled function, between other operations; arguments that it writes are written."""
    op, args, kwargs = case
    args = fix_states(op, args)

    def function(scale, *args):
        result = op(*args, **kwargs)
        return [t * scale for t in flat([result])], [t * scale for t in flat(args)]

    ours, theirs = copy.deepcopy(args), copy.deepcopy(args)
    torch._dynamo.reset()
    expected = function(3, *theirs)
    result = torch.compile(function, backend="aot_eager", fullgraph=True)(3, *ours)
    for a, b in zip(flat([result, ours]), flat([expected, theirs]), strict=True):
        assert torch.equal(a, b)


def test_a_compiled_training_step_of_parameters():
    """Forward, backward and the fused step in one graph."""

    def run(compiled):
        torch.manual_seed(0)
        w = torch.nn.Parameter(torch.randn(6, 5))
        v, mask = torch.zeros(6, 5), torch.rand(6, 5) < 0.5

        def update(w, g, v):
            with torch.no_grad():
                ops.masked_sgd_([w], [g], [v], [mask], lr=0.1, momentum=0.9)

        step = torch.compile(update, backend="aot_eager", fullgraph=True) if compiled else update
        for _ in range(3):
            (g,) = torch.autograd.grad((w @ torch.randn(5, 2)).square().sum(), w)
            step(w, g, v)
        return w.detach(), v

    for a, b in zip(run(True), run(False), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("which", ["rows", "cols", "both", "neither"])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3, 2)])
def test_gather_has_a_gradient(which, shape):
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([3, 0, 3]) if which in ("rows", "both") else None  # an index may occur twice
    cols = torch.tensor([2, 1]) if which in ("cols", "both") else None
    assert torch.autograd.gradcheck(ops.channel_gather, (w, rows, cols))
    assert torch.autograd.gradgradcheck(ops.channel_gather, (w, rows, cols))
    upstream = torch.randn_like(ops.channel_gather(w, rows, cols))
    by_index = w if rows is None else w[rows]
    by_index = by_index if cols is None else by_index[:, cols]
    (expected,) = torch.autograd.grad(by_index, w, upstream)
    (ours,) = torch.autograd.grad(ops.channel_gather(w, rows, cols), w, upstream)
    assert torch.equal(ours, expected)

    def loss(w):
        return (ops.channel_gather(w, rows, cols) * upstream).sum()

    compiled = w.detach().clone().requires_grad_()
    torch._dynamo.reset()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(compiled).backward()
    assert torch.equal(compiled.grad, expected)
    assert not ops.channel_gather(w.detach(), rows, cols).requires_grad
    with torch.no_grad():
        assert not ops.channel_gather(w, rows, cols).requires_grad


def test_gather_of_masks_and_whole_numbers():
    mask = torch.rand(5, 4) < 0.5
    assert torch.equal(ops.channel_gather(mask, torch.tensor([1, 2]), None), mask[[1, 2]])
    counts = torch.arange(20, dtype=torch.int32).view(5, 4)
    assert torch.equal(ops.channel_gather(counts, None, torch.tensor([3])), counts[:, [3]])


def other_threads_run_during(call):
    """Ticks of a thread that wakes each millisecond while `call` runs, and how long that took."""
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    call()
    end = time.perf_counter()
    stop.set()
    thread.join()
    return sum(begin < t < end for t in ticks), end - begin


def test_long_calls_let_other_threads_run():
    w = torch.randn(4096, 4096)
    linear = torch.nn.Linear(4096, 4096, bias=False)
    s = glyptic.sparsity.GMP(linear, None, density=0.1, total_steps=10)
    state = s.state_dict()
    calls = {
        "operator": lambda: ops.topk_masks([w] * 4, [], [], [], [100000] * 4, score="random", seed=1),
        "sparsifier": lambda: glyptic.sparsity.SET(torch.nn.Linear(4096, 4096, bias=False), None, density=0.1, total_steps=10),
        "saving": s.state_dict,
        "loading": lambda: s.load_state_dict(state),
    }
    for name, call in calls.items():
        count, seconds = other_threads_run_during(call)
        # With the lock held throughout there would be one tick at most at each end. A busy machine wakes threads late.
        assert seconds > 0.02, f"{name} took {seconds} s: too short to tell"
        assert count >= max(3, 40 * seconds), f"{name}: {count} ticks in {seconds:.3f} s"
