"""torch.ops.glyptic.*: schemas, registrations and torch.compile, by torch's own checker."""

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
        "masked_sgd_ masked_adamw_ mask_apply_ topk_masks mask_update_ channel_scores channel_gather philox_fill_"
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
