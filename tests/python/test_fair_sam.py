"""FairSAM beside SAM, weighted gradient descent and a plain float64 version of each of its readings."""

import copy
import math
import pickle
import re

import glyptic
import pytest
import torch
import torch.nn.functional as F
from glyptic.sharpness import SAM, FairSAM
from torch import nn

G, C, N = 3, 4, 120


def make_data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 6, generator=generator)
    s = torch.cat([torch.arange(G).repeat_interleave(C), torch.randint(G, (N - G * C,), generator=generator) % 2])
    y = torch.cat([torch.arange(C).repeat(G), torch.randint(C, (N - G * C,), generator=generator)])
    return x, s, y


def make_model(norm=False, dropout=False, dtype=torch.float32):
    torch.manual_seed(1)
    layers = [nn.Linear(6, 16)] + [nn.BatchNorm1d(16)] * norm + [nn.ReLU()] + [nn.Dropout(0.5)] * dropout
    return nn.Sequential(*layers, nn.Linear(16, C)).to(dtype)


def losses_of(model, x, y):
    return lambda: F.cross_entropy(model(x), y, reduction="none")


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def batches(x, s, y, count, size=24, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        rows = torch.randint(N, (size,), generator=generator)
        yield x[rows], s[rows], y[rows]


@pytest.mark.parametrize("norm, dropout", [(False, False), (True, True)])
def test_weights_of_one_are_sam_bitwise(norm, dropout):
    x, s, y = make_data()
    runs = []
    for kind in ("sam", "custom", "one group"):
        model = make_model(norm, dropout)
        options = {"rho": 0.1, "lr": 0.1, "momentum": 0.9}
        if kind == "sam":
            optimizer = SAM(model.parameters(), torch.optim.SGD, **options)
        elif kind == "custom":
            optimizer = FairSAM(model.parameters(), torch.optim.SGD, weights="custom", **options)
        else:
            optimizer = FairSAM(model.parameters(), torch.optim.SGD, groups=torch.zeros_like(s), **options)
        torch.manual_seed(5)
        for bx, bs, by in batches(x, s, y, 5):
            closure = losses_of(model, bx, by)
            if kind == "sam":
                optimizer.step(closure)
            elif kind == "custom":
                optimizer.step(closure, sample_weight=torch.ones(len(by)))
            else:
                optimizer.step(closure, torch.zeros_like(bs))
        runs.append([*weights_of(model), *model.buffers()])
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])


@pytest.mark.parametrize("kind", ["group", "reweighing", "group_label"])
@pytest.mark.parametrize("normalize", [False, True])
def test_radius_zero_is_weighted_descent(kind, normalize):
    x, s, y = make_data()
    w = glyptic.fairness.fair_sample_weights(s, y, kind)
    model, plain = make_model(dtype=torch.float64), make_model(dtype=torch.float64)
    x = x.double()
    optimizer = FairSAM(
        model.parameters(), torch.optim.SGD, groups=s, labels=y, weights=kind, rho=0.0, lr=0.1, normalize_in_batch=normalize
    )
    base = torch.optim.SGD(plain.parameters(), lr=0.1)
    for rows in torch.randperm(N).split(30):
        optimizer.step(losses_of(model, x[rows], y[rows]), s[rows], y[rows])
        base.zero_grad()
        losses = F.cross_entropy(plain(x[rows]), y[rows], reduction="none")
        ((w[rows] * losses).sum() / (w[rows].sum() if normalize else 30)).backward()
        base.step()
    for a, b in zip(weights_of(model), weights_of(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def gradient(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


def shifted(model, direction, rho):
    norm = torch.sqrt(sum(d.square().sum() for d in direction))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p, d in zip(other.parameters(), direction, strict=True):
            p.add_(d, alpha=float(rho / (norm + 1e-12)))
    return other


def oracle(model, x, s, y, mode, w, rho, reweigh_in="both", q=None, shares=None, eta=0.5, prior=None):
    """One step's direction, naively; returns it and the new q."""

    def losses(net):
        return F.cross_entropy(net(x), y, reduction="none")

    if mode == "per_group":
        present = [g for g in range(G) if bool((s == g).any())]
        total = sum(prior[g] for g in present)
        result = [torch.zeros_like(p) for p in model.parameters()]
        for g in present:
            up = gradient(model, losses(model)[s == g].mean())
            for r, d in zip(result, gradient(m := shifted(model, up, rho), losses(m)[s == g].mean()), strict=True):
                r += prior[g] / total * d
        return result, q
    if mode == "adaptive":
        w = (q / shares)[s]
    plain = torch.ones_like(w)
    up = gradient(model, (losses(model) * (plain if reweigh_in == "descent" else w)).mean())
    m = shifted(model, up, rho)
    if mode == "adaptive":
        q = q.clone()
        for g in range(G):
            if bool((s == g).any()):
                h = float((losses(m)[s == g].mean() - losses(model)[s == g].mean()).detach().clamp(0, 1))
                q[g] *= math.exp(eta * h)
        q = q / q.sum()
    return gradient(m, (losses(m) * (plain if reweigh_in == "ascent" else w)).mean()), q


@pytest.mark.parametrize(
    "mode, options",
    [
        ("reweighted", {"weights": "reweighing"}),
        ("reweighted", {"weights": "group_label", "reweigh_in": "ascent"}),
        ("reweighted", {"weights": "group", "reweigh_in": "descent"}),
        ("adaptive", {"eta_q": 0.5}),
        ("per_group", {}),
        ("per_group", {"group_prior": "population"}),
        ("per_group", {"group_prior": [1.0, 2.0, 5.0], "joint_bn": False}),
    ],
)
def test_each_reading_against_a_plain_version(mode, options):
    x, s, y = make_data()
    x = x.double()
    model = make_model(dtype=torch.float64)
    optimizer = FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, mode=mode, rho=0.2, lr=0.3, **options)
    shares = torch.bincount(s).double() / N
    kind = options.get("weights", "group")
    w = glyptic.fairness.fair_sample_weights(s, y, kind)
    prior = {"population": shares.tolist(), "uniform": [1.0] * 3}.get(str(options.get("group_prior", "uniform")), [1.0, 2.0, 5.0])
    q = torch.full((G,), 1 / G, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    lacking = 0
    for size in (24, 24, 6, 5, 24):
        rows = torch.randint(N, (size,), generator=generator)
        lacking += len(s[rows].unique()) < G
        direction, q = oracle(
            model, x[rows], s[rows], y[rows], mode, w[rows], 0.2, options.get("reweigh_in", "both"), q, shares, prior=prior
        )
        before = weights_of(model)

        def closure(rows=None, at=rows):
            take = at if rows is None else at[rows]
            return F.cross_entropy(model(x[take]), y[take], reduction="none")

        optimizer.step(closure, s[rows], y[rows])
        for p, b, d in zip(model.parameters(), before, direction, strict=True):
            torch.testing.assert_close(p.detach(), b - 0.3 * d, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(optimizer.q, q if mode == "adaptive" else torch.full_like(q, 1 / G), rtol=1e-13, atol=0)
    assert lacking, "some batch lacks a group"
    if mode == "adaptive":
        assert float((q - 1 / G).abs().max()) > 1e-3


def test_a_copied_sample_is_a_weight():
    x, s, y = make_data()
    x = x.double()
    k = torch.randint(1, 4, (N,))
    again = torch.repeat_interleave(torch.arange(N), k)
    a, b = make_model(dtype=torch.float64), make_model(dtype=torch.float64)
    FairSAM(a.parameters(), torch.optim.SGD, weights="custom", rho=0.1, lr=0.5).step(
        losses_of(a, x, y), sample_weight=k.double() / k.double().mean()
    )
    SAM(b.parameters(), torch.optim.SGD, rho=0.1, lr=0.5).step(losses_of(b, x[again], y[again]))
    for p, r in zip(weights_of(a), weights_of(b), strict=True):
        torch.testing.assert_close(p, r, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mode", ["reweighted", "adaptive", "per_group"])
def test_resume_is_bitwise(mode, tmp_path):
    x, s, y = make_data()

    def start(known=True):
        model = make_model(norm=True, dropout=True)
        given = {"groups": s, "labels": y} if known else {}
        return model, FairSAM(
            model.parameters(), torch.optim.SGD, mode=mode, weights="reweighing", eta_q=0.5, rho=0.1, lr=0.1, momentum=0.9,
            **given,
        )  # fmt: skip

    def train(model, optimizer, todo, seed):
        torch.manual_seed(seed)
        for bx, bs, by in todo:
            optimizer.step(losses_of(model, bx, by), bs, by)

    todo = list(batches(x, s, y, 8))
    model, optimizer = start()
    train(model, optimizer, todo[:4], 1)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    copied = pickle.loads(pickle.dumps((model, optimizer)))
    train(model, optimizer, todo[4:], 2)
    saved = torch.load(tmp_path / "state.pt")
    other, resumed = start(known=False)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, todo[4:], 2)
    train(*copied, todo[4:], 2)
    for twin, its in ((other, resumed), copied):
        assert same([*model.parameters(), *model.buffers()], [*twin.parameters(), *twin.buffers()])
        assert torch.equal(optimizer.q, its.q) and torch.equal(optimizer.cell_weights, its.cell_weights)
    if mode == "adaptive":
        assert not torch.equal(optimizer.q, torch.full_like(optimizer.q, 1 / G))


@pytest.mark.parametrize("mode", ["reweighted", "adaptive"])
def test_micro_batches_are_one_batch(mode):
    x, s, y = make_data()
    x = x.double()
    results = []
    for count in (1, 4):
        model = make_model(dtype=torch.float64)
        optimizer = FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, mode=mode, eta_q=0.5, rho=0.1, lr=0.2)
        parts = torch.arange(N).split(N // count)
        if count == 1:
            optimizer.step(losses_of(model, x, y), s, y)
        else:
            optimizer.step(
                lambda rows, m=model: F.cross_entropy(m(x[rows]), y[rows], reduction="none"),
                [s[r] for r in parts], [y[r] for r in parts], batches=parts,
            )  # fmt: skip
        results.append([*weights_of(model), optimizer.q])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mode", ["reweighted", "adaptive", "per_group"])
def test_an_exception_and_a_bad_gradient_leave_no_trace(mode):
    x, s, y = make_data()
    model = make_model(norm=True)
    optimizer = FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, mode=mode, eta_q=0.5, rho=0.1, lr=0.1)
    optimizer.step(losses_of(model, x, y), s, y)
    before, q, calls = weights_of(model), optimizer.q, 0
    moved = [p.data_ptr() for p in model.parameters()]

    def closure():
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return F.cross_entropy(model(x), y, reduction="none")

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure, s, y)
    assert same(weights_of(model), before) and torch.equal(optimizer.q, q)
    assert moved == [p.data_ptr() for p in model.parameters()]
    optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none") * float("nan"), s, y)
    assert same(weights_of(model), before) and torch.equal(optimizer.q, q) and optimizer.skipped_steps == 1
    optimizer.step(losses_of(model, x, y), s, y)
    assert not same(weights_of(model), before)


def test_statistics_move_once():
    x, s, y = make_data()
    moved = []
    for mode in ("reweighted", "per_group"):
        model = make_model(norm=True)
        FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, mode=mode, rho=0.1, lr=0.1).step(
            losses_of(model, x, y), s, y
        )
        assert int(model[1].num_batches_tracked) == 1
        moved.append(model[1].running_mean.clone())
    assert torch.equal(*moved)


@pytest.mark.parametrize("mode", ["reweighted", "per_group"])
def test_passes_share_their_dropout_masks(mode):
    x, s, y = make_data()
    model, seen = make_model(dropout=True), []
    optimizer = FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, mode=mode, rho=0.0, lr=0.1)

    def closure():
        seen.append(F.cross_entropy(model(x), y, reduction="none"))
        return seen[-1]

    optimizer.step(closure, s, y)
    assert len(seen) == (2 if mode == "reweighted" else 1 + G)
    assert all(torch.equal(seen[0], losses) for losses in seen)
    before = seen[0].detach()
    optimizer.step(closure, s, y)
    assert not torch.equal(before, seen[-1]), "another step draws others"


def test_sharpness_of_groups_is_clamped():
    x, s, y = make_data()
    model = make_model()
    optimizer = FairSAM(
        model.parameters(), torch.optim.SGD, groups=s, labels=y, mode="adaptive", eta_q=2.0, h_max=0.01, rho=1.0, lr=0.1
    )
    scale, seen = torch.tensor([1.0, 0.0, -0.01])[s], []

    def closure():
        seen.append(F.cross_entropy(model(x), y, reduction="none") * scale)
        return seen[-1]

    optimizer.step(closure, s, y)
    h = [float((seen[1][s == g].double().mean() - seen[0][s == g].double().mean()).detach()) for g in range(G)]
    assert h[0] > 0.01 and h[1] == 0 and h[2] < 0
    q = torch.tensor([math.exp(0.02), 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(optimizer.q, q / q.sum(), rtol=1e-12, atol=0)


def test_a_sparsifier_and_a_scheduler_take_part():
    x, s, y = make_data()
    model = make_model()
    optimizer = FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, mode="adaptive", rho=0.1, lr=0.1)
    sparsifier = glyptic.sparsity.RigL(model, optimizer, density=0.5, total_steps=20, update_every=2)
    sparsifier.attach()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for bx, bs, by in batches(x, s, y, 6):
        optimizer.step(losses_of(model, bx, by), bs, by)
        scheduler.step()
    for name, mask in sparsifier.masks().items():
        assert not model.get_parameter(name)[~mask].any()
    assert sparsifier.stats()["events"] > 0 and optimizer.param_groups[0]["lr"] < 0.1


@pytest.mark.filterwarnings("ignore:fair weights")
@pytest.mark.parametrize(
    "options, step, text",
    [
        ({"mode": "x"}, None, "mode is 'x'"),
        ({"weights": "x"}, None, "weights is 'x'"),
        ({"reweigh_in": "x"}, None, "reweigh_in"),
        ({"eta_q": -1.0}, None, "eta_q"),
        ({"weights": "reweighing", "labels": None}, None, "needs the labels"),
        ({"groups": torch.tensor([0, 2]), "labels": None}, None, "group 1 has no sample"),
        ({"groups": torch.rand(4)}, None, "integer ids"),
        ({"mode": "per_group", "group_prior": [1.0]}, None, "group_prior"),
        ({"groups": None, "labels": None}, ("s", "y"), "does not know the training set"),
        ({}, (None, "y"), "needs the groups"),
        ({}, ("s", None), "needs the labels"),
        ({}, ("short", "y"), "groups and"),
        ({}, ("large", "y"), "hold the id 3"),
        ({}, ("float", "y"), "integer ids"),
        ({"weights": "custom"}, ("s", "y"), "needs sample_weight"),
    ],
)
def test_what_is_refused(options, step, text):
    x, s, y = make_data()
    model = make_model()
    given = {"groups": s, "labels": y, **options}
    choose = {"s": s, "y": y, "short": s[:-1], "large": torch.full_like(s, 3), "float": s.float(), None: None}
    with pytest.raises(glyptic.ArgumentError, match=re.escape(text)):
        optimizer = FairSAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, **given)
        assert step is not None, "the constructor took it"
        optimizer.step(losses_of(model, x, y), choose[step[0]], choose[step[1]])


def test_other_misuse():
    x, s, y = make_data()
    model = make_model()
    optimizer = FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, rho=0.1, lr=0.1)
    with pytest.raises(glyptic.ArgumentError, match="one loss per sample"):
        optimizer.step(lambda: F.cross_entropy(model(x), y), s, y)
    custom = FairSAM(model.parameters(), torch.optim.SGD, weights="custom", rho=0.1, lr=0.1)
    for bad in (torch.full((N,), -1.0), torch.full((N,), float("nan"))):
        with pytest.raises(glyptic.ArgumentError, match="finite and >= 0"):
            custom.step(losses_of(model, x, y), sample_weight=bad)
    grouped = FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, mode="per_group", rho=0.1, lr=0.1)
    with pytest.raises(glyptic.ArgumentError, match="neither a loss scaler nor micro-batches"):
        grouped.step(losses_of(model, x, y), s, y, batches=[x])
    # A cell that the training set did not have.
    with pytest.warns(UserWarning, match=r"\(group 1, class 1\)"):
        few = FairSAM(
            model.parameters(), torch.optim.SGD, groups=[0, 0, 1], labels=[0, 1, 0], weights="reweighing", rho=0.1, lr=0.1
        )
    with pytest.raises(glyptic.ArgumentError, match="no sample of group 1 and class 1"):
        few.step(losses_of(model, x[:2], y[:2]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert FairSAM.source == "reconstruction" and "reconstruction" in FairSAM.__doc__


def _steps(model, optimizer, rows_of):
    x, s, y = make_data()
    x = x.double()
    for k in range(3):
        rows = torch.arange(20 * k, 20 * k + 20)
        rows = rows_of(rows[s[rows].argsort()])  # each half lacks a group that the other has
        optimizer.step(losses_of(model, x[rows], y[rows]), s[rows], y[rows])


def _optimizer(parameters, mode):
    _, s, y = make_data()
    return FairSAM(
        parameters, torch.optim.SGD, groups=s, labels=y, mode=mode, eta_q=0.5, rho=0.1, lr=0.2, sync_perturbation=True
    )


def _rank(rank, port, folder):
    import os

    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for mode in ("adaptive", "per_group"):
        model = make_model(dtype=torch.float64)
        ddp = nn.parallel.DistributedDataParallel(model)
        optimizer = _optimizer(ddp.parameters(), mode)
        _steps(ddp, optimizer, lambda rows: rows[rank * 10 : rank * 10 + 10])
        torch.save([*weights_of(model), optimizer.q], f"{folder}/{mode}{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one(unused_port, tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=_rank, args=(r, unused_port, str(tmp_path))) for r in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert [w.exitcode for w in workers] == [0, 0]
    for mode in ("adaptive", "per_group"):
        ranks = [torch.load(tmp_path / f"{mode}{r}.pt") for r in range(2)]
        assert same(*ranks)
        model = make_model(dtype=torch.float64)
        optimizer = _optimizer(model.parameters(), mode)
        _steps(model, optimizer, lambda rows: rows)
        for a, b in zip([*weights_of(model), optimizer.q], ranks[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)  # sums in another order
