"""Group fairness metrics against numbers worked by hand, fairlearn, and invariants; losses, weights and samplers."""

import csv
import math
import os
import pathlib
import random
import re

import glyptic
import pytest
import torch
from glyptic import fairness, metrics

Y = [1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]
P = [1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1]
S = [0] * 6 + [1] * 6

DIFFERENCES = [
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
]


def tabular(name):
    for folder in (os.environ.get("GLYPTIC_DATA"), pathlib.Path(__file__).resolve().parents[3] / "shared/data",
                   pathlib.Path(__file__).resolve().parents[2] / "../../shared/data"):  # fmt: skip
        if folder and (pathlib.Path(folder) / "tabular" / name).exists():
            with open(pathlib.Path(folder) / "tabular" / name, newline="") as file:
                rows = csv.reader(file)
                head = next(rows)
                # Columns that are there twice hold equal values; the first counts.
                return [dict(zip(reversed(head), reversed(row), strict=True)) for row in rows if row]
    pytest.skip(f"{name} is not in $GLYPTIC_DATA/tabular nor in ../shared/data/tabular")


@pytest.fixture(scope="module")
def compas():
    rows = tabular("compas-two-years.csv")
    assert len(rows) == 7214
    two = [r for r in rows if r["race"] in ("African-American", "Caucasian")]
    return [int(r["two_year_recid"]) for r in two], [int(int(r["decile_score"]) >= 5) for r in two], [r["race"] for r in two]


@pytest.fixture(scope="module")
def adult():
    rows = tabular("adult.csv")
    assert len(rows) == 32561
    y = [int(r["income-per-year"].strip() == ">50K") for r in rows]
    # A plain rule stands for a model.
    p = [int(int(r["education-num"]) >= 12 and int(r["hours-per-week"]) >= 40) for r in rows]
    return y, p, [r["sex"] for r in rows], [r["race"] for r in rows], [float(r["fnlwgt"]) for r in rows]


# ---- numbers


def test_worked_example():
    table = metrics.group_table(Y, P, sensitive_features=S)
    for name, expected in {
        "selection_rate": (0.5, 1 / 3),
        "true_positive_rate": (2 / 3, 0.5),
        "false_positive_rate": (1 / 3, 0.25),
        "false_negative_rate": (1 / 3, 0.5),
        "accuracy": (2 / 3, 2 / 3),
    }.items():
        assert [table[0][name], table[1][name]] == pytest.approx(expected, abs=1e-15)
    assert table[0]["count"] == 6 and table["overall"]["count"] == 12
    take = {"sensitive_features": S}
    assert metrics.demographic_parity_difference(Y, P, **take) == pytest.approx(1 / 6, abs=1e-15)
    assert metrics.demographic_parity_ratio(Y, P, **take) == pytest.approx(2 / 3, abs=1e-15)
    assert metrics.equalized_odds_difference(Y, P, **take) == pytest.approx(1 / 6, abs=1e-15)
    assert metrics.equalized_odds_difference(Y, P, agg="mean", **take) == pytest.approx(0.125, abs=1e-15)
    assert metrics.demographic_parity_difference(Y, P, method="to_overall", **take) == pytest.approx(1 / 12, abs=1e-15)
    assert metrics.accuracy_parity_difference(Y, P, **take) == 0
    assert metrics.worst_group(Y, P, **take) == pytest.approx(2 / 3, abs=1e-15)
    assert metrics.worst_cell(Y, P, **take) == 0.5  # positives of group 1


def test_undefined_rates():
    y = [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    p = [1, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0]
    s = list("aaaaaaaabbbbcc")
    assert math.isnan(metrics.group_table(y, p, sensitive_features=s)["c"]["true_positive_rate"])
    assert metrics.group_table(y, p, sensitive_features=s, undefined="zero")["c"]["true_positive_rate"] == 0
    with pytest.warns(UserWarning, match=r"left out 1 of 3 groups .*'c'"):
        assert metrics.equalized_odds_difference(y, p, sensitive_features=s) == 0.5
    assert metrics.equalized_odds_difference(y, p, sensitive_features=s, undefined="zero") == 0.75
    with pytest.raises(glyptic.ArgumentError, match="no sample to take a rate over"):
        metrics.equalized_odds_difference(y, p, sensitive_features=s, undefined="error")
    assert metrics.demographic_parity_difference(y, p, sensitive_features=s) == 0.25
    # With one group left there is nothing to compare: not a difference of 0.
    with pytest.warns(UserWarning, match="left out 1 of 2"):
        assert math.isnan(metrics.equal_opportunity_difference([1, 1, 0, 0], [1, 0, 1, 0], sensitive_features=[0, 0, 1, 1]))
    with pytest.warns(UserWarning, match="left out 2 of 2"):
        assert math.isnan(metrics.equal_opportunity_difference([0] * 4, [1, 0, 1, 0], sensitive_features=[0, 0, 1, 1]))
    assert metrics.demographic_parity_ratio([1, 0], [0, 0], sensitive_features=[0, 1]) == 1


def test_compas_numbers(compas):
    y, p, s = compas
    table = metrics.group_table(y, p, sensitive_features=s)
    counts = [[table[g][k] for k in ("true_positive", "false_positive", "false_negative", "true_negative")]
              for g in ("African-American", "Caucasian")]  # fmt: skip
    assert counts == [[1369, 805, 532, 990], [505, 349, 461, 1139]]
    take = {"sensitive_features": s}
    assert round(metrics.demographic_parity_difference(y, p, **take), 6) == 0.240200
    assert round(metrics.equalized_odds_difference(y, p, **take), 6) == 0.213925
    assert round(metrics.equal_opportunity_difference(y, p, **take), 6) == 0.197373
    assert round(metrics.accuracy_parity_difference(y, p, **take), 6) == 0.031669
    assert round(metrics.demographic_parity_ratio(y, p, **take), 6) == 0.591638
    signed = metrics.aif360_metrics(y, p, privileged="Caucasian", **take)
    assert round(signed["average_odds_error"], 6) == 0.205649
    assert round(signed["statistical_parity_difference"], 6) == 0.240200
    assert signed["disparate_impact"] == pytest.approx(1 / 0.591638, abs=2e-6)


def test_compas_as_propublica_filters_it():
    rows = [r for r in tabular("compas-two-years.csv")
            if r["days_b_screening_arrest"] != "" and -30 <= float(r["days_b_screening_arrest"]) <= 30
            and r["is_recid"] != "-1" and r["c_charge_degree"] != "O" and r["score_text"] != "N/A"]  # fmt: skip
    assert len(rows) == 6172
    y, p = [int(r["two_year_recid"]) for r in rows], [int(int(r["decile_score"]) >= 5) for r in rows]
    sex = [r["sex"] for r in rows]
    assert round(metrics.demographic_parity_difference(y, p, sensitive_features=sex), 6) == 0.050167
    assert round(metrics.equalized_odds_difference(y, p, sensitive_features=sex), 6) == 0.024976
    assert round(metrics.accuracy_parity_difference(y, p, sensitive_features=sex), 6) == 0.001731
    two = [i for i, r in enumerate(rows) if r["race"] in ("African-American", "Caucasian")]
    y, p, race = [y[i] for i in two], [p[i] for i in two], [rows[i]["race"] for i in two]
    take = {"sensitive_features": race}
    assert round(metrics.demographic_parity_difference(y, p, **take), 6) == 0.245107
    assert round(metrics.equalized_odds_difference(y, p, **take), 6) == 0.211582
    assert round(metrics.accuracy_parity_difference(y, p, **take), 6) == 0.022763
    assert round(metrics.demographic_parity_ratio(y, p, **take), 6) == 0.574513


def test_signed_metrics_by_hand():
    signed = metrics.aif360_metrics(Y, P, sensitive_features=S, privileged=0)
    assert signed["statistical_parity_difference"] == pytest.approx(-1 / 6)
    assert signed["disparate_impact"] == pytest.approx(2 / 3)
    assert signed["equal_opportunity_difference"] == pytest.approx(-1 / 6)
    assert signed["average_odds_difference"] == pytest.approx(-0.125)
    assert signed["average_odds_error"] == pytest.approx(0.125)
    b = [p - y + 1 for y, p in zip(Y, P, strict=True)]
    mu = sum(b) / 12
    assert signed["theil_index"] == pytest.approx(sum(v / mu * math.log(v / mu) for v in b if v) / 12)
    # The favourable outcome may be 0, and all other groups together are the unprivileged.
    names = ["p", "q"] * 3 + ["r"] * 6
    other = metrics.aif360_metrics(Y, P, sensitive_features=names, privileged="p", pos_label=0)
    rest = [i for i, n in enumerate(names) if n != "p"]
    mine = [i for i, n in enumerate(names) if n == "p"]
    assert other["statistical_parity_difference"] == pytest.approx(
        sum(P[i] == 0 for i in rest) / len(rest) - sum(P[i] == 0 for i in mine) / len(mine)
    )


# ---- fairlearn


def peers():
    return pytest.importorskip("fairlearn.metrics", reason="fairlearn is not installed (python/requirements-dev.txt)")


@pytest.mark.parametrize(
    "set_name, weighted", [("compas", False), ("compas", True), ("adult sex", False), ("adult race", True)]
)
def test_equals_fairlearn(set_name, weighted, request):
    theirs = peers()
    if set_name == "compas":
        y, p, s = request.getfixturevalue("compas")
        generator = random.Random(1)
        w = [generator.random() + 0.1 for _ in y]
    else:
        y, p, sex, race, w = request.getfixturevalue("adult")
        s = sex if set_name == "adult sex" else race
    keywords = {"sensitive_features": s, "sample_weight": w if weighted else None}
    for method in ("between_groups", "to_overall"):
        for name in DIFFERENCES:
            for agg in ("worst_case", "mean") if name.startswith("equalized") else (None,):
                more = {"method": method} | ({} if agg is None else {"agg": agg})
                expected = getattr(theirs, name)(y, p, **keywords, **more)
                found = getattr(metrics, name)(y, p, **keywords, **more)
                # Sums of up to 32,561 float64 weights in another order.
                assert found == pytest.approx(expected, rel=1e-10, abs=1e-12), (name, more)
    frame = theirs.MetricFrame(
        metrics={"selection_rate": theirs.selection_rate, "false_negative_rate": theirs.false_negative_rate},
        y_true=y, y_pred=p, sensitive_features=s,
        sample_params={k: {"sample_weight": keywords["sample_weight"]} for k in ("selection_rate", "false_negative_rate")},
    )  # fmt: skip
    table = metrics.group_table(y, p, **keywords)
    for group, row in frame.by_group.iterrows():
        for name in ("selection_rate", "false_negative_rate"):
            assert table[group][name] == pytest.approx(row[name], rel=1e-10)


def test_zero_is_what_fairlearn_does_where_a_rate_is_undefined():
    theirs = peers()
    y, p, s = [1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1]
    keywords = {"sensitive_features": s}
    assert metrics.equal_opportunity_difference(y, p, undefined="zero", **keywords) == pytest.approx(
        theirs.equal_opportunity_difference(y, p, **keywords)
    )


def test_auc_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed (python/requirements-dev.txt)")
    torch.manual_seed(1)
    y, s, w = torch.randint(2, (300,)), torch.randint(3, (300,)), torch.rand(300)
    scores = (torch.rand(300) * 10).round() / 10  # ties
    found = metrics.group_auc(y, scores, sensitive_features=s, sample_weight=w)
    for g in (0, 1, 2, "overall"):
        keep = torch.ones(300, dtype=bool) if g == "overall" else s == g
        assert found[g] == pytest.approx(sklearn.roc_auc_score(y[keep], scores[keep], sample_weight=w[keep]), rel=1e-12)
    assert math.isnan(metrics.group_auc([0, 0, 1], [0.1, 0.2, 0.3], sensitive_features=[0, 0, 1])[0])


# ---- invariants


def random_case(seed, classes=2, groups=3, n=60):
    generator = torch.Generator().manual_seed(seed)

    def draw(k):
        return torch.randint(k, (n,), generator=generator)

    return draw(classes), draw(classes), torch.cat([torch.arange(groups), draw(groups)[groups:]]), generator


@pytest.mark.parametrize("seed", range(5))
def test_permutation_weights_and_copies(seed):
    y, p, s, generator = random_case(seed)
    k = torch.randint(1, 4, (len(y),), generator=generator)
    order = torch.randperm(len(y), generator=generator)
    again = torch.repeat_interleave(torch.arange(len(y)), k)
    relabelled = torch.tensor([2, 0, 1])[s]
    for name in metrics.fairness_metrics():
        def value(rows, w=None, name=name, groups=s):  # fmt: skip
            return metrics.fairness_metric(name, y[rows], p[rows], sensitive_features=groups[rows], sample_weight=w)

        everyone = torch.arange(len(y))
        plain = value(everyone)
        assert value(order) == pytest.approx(plain, abs=1e-14)
        assert value(everyone, torch.ones(len(y))) == plain
        assert value(everyone, k) == pytest.approx(value(again), abs=1e-12)
        assert value(everyone, 7 * k) == pytest.approx(value(everyone, k), abs=1e-12)
        if "signed" not in name and name not in ("statistical_parity_difference", "disparate_impact") and "odds_d" not in name:
            if "average_odds" not in name:  # these have a privileged group
                assert value(everyone, groups=relabelled) == pytest.approx(plain, abs=1e-14)


def test_kinds_of_input_agree():
    expected = metrics.demographic_parity_difference(Y, P, sensitive_features=S)
    words = ["no", "yes"]
    numpy = pytest.importorskip("numpy")
    for convert in (torch.tensor, numpy.array, tuple):
        assert metrics.demographic_parity_difference(convert(Y), convert(P), sensitive_features=convert(S)) == expected
    named = {"sensitive_features": ["ab"[v] for v in S], "pos_label": "yes"}
    assert metrics.demographic_parity_difference([words[v] for v in Y], [words[v] for v in P], **named) == expected
    assert metrics.demographic_parity_difference([2 * v - 1 for v in Y], [2 * v - 1 for v in P], sensitive_features=S) == expected
    # Two columns: the groups are their combinations.
    rows = list(zip(S, [0, 1] * 6, strict=True))
    assert set(metrics.group_table(Y, P, sensitive_features=rows)) == {(0, 0), (0, 1), (1, 0), (1, 1), "overall"}


def test_several_classes():
    y, p, s, _ = random_case(3, classes=4)
    for name in ("demographic_parity_difference", "equalized_odds_difference", "demographic_parity_ratio"):
        found = metrics.one_vs_rest(name, y, p, sensitive_features=s)
        each = {c: metrics.fairness_metric(name, (y == c).long(), (p == c).long(), sensitive_features=s) for c in range(4)}
        assert found["per_class"] == pytest.approx(each)
        assert found["mean"] == pytest.approx(sum(each.values()) / 4)
        assert found["worst"] == pytest.approx((min if "ratio" in name else max)(each.values()))
    accuracy = [float((y[s == g] == p[s == g]).double().mean()) for g in range(3)]
    assert metrics.accuracy_parity_difference(y, p, sensitive_features=s) == pytest.approx(max(accuracy) - min(accuracy))
    assert metrics.worst_group(y, p, sensitive_features=s) == pytest.approx(min(accuracy))
    cells = [float((p[(s == g) & (y == c)] == c).double().mean()) for g in range(3) for c in range(4)]
    assert metrics.worst_cell(y, p, sensitive_features=s) == pytest.approx(min(v for v in cells if v == v))
    # Bias amplification: of predictions of a class, the share of the group that has most, above an even share.
    shares = [max(int(((p == c) & (s == g)).sum()) for g in range(3)) / int((p == c).sum()) - 1 / 3 for c in range(4)]
    found = metrics.fairness_metric("bias_amplification", y, p, sensitive_features=s)
    assert found == pytest.approx(sum(shares) / 4)


# ---- bootstrap


def test_bootstrap_interval():
    generator = torch.Generator().manual_seed(5)
    s = torch.randint(2, (2000,), generator=generator)
    y = torch.randint(2, (2000,), generator=generator)
    p = (torch.rand(2000, generator=generator) < torch.where(s == 1, 0.6, 0.3)).long()
    take = {"sensitive_features": s, "seed": 3}
    found = metrics.bootstrap_interval("demographic_parity_difference", y, p, **take)
    assert found["value"] == metrics.demographic_parity_difference(y, p, sensitive_features=s)
    assert found["low"] < found["value"] < found["high"] and found["skipped"] == 0
    # Two independent proportions; 1,000 replicates know their standard error to 1 / sqrt(2000) = 2.2 %, four times that here.
    rates = [p[s == g].double().mean() for g in (0, 1)]
    expected = math.sqrt(sum(float(r * (1 - r)) / int((s == g).sum()) for g, r in enumerate(rates)))
    assert found["standard_error"] == pytest.approx(expected, rel=0.09)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * expected, rel=0.2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert metrics.bootstrap_interval("demographic_parity_difference", y, p, **take) == found
    finally:
        torch.set_num_threads(threads)
    assert metrics.bootstrap_interval("demographic_parity_difference", y, p, sensitive_features=s, seed=4)["low"] != found["low"]
    narrow = metrics.bootstrap_interval("demographic_parity_difference", y, p, level=0.5, **take)
    assert found["low"] < narrow["low"] < narrow["high"] < found["high"]


def test_bootstrap_counts_replicates_without_a_group():
    y, p, s = [1, 0] * 10, [1, 1, 0, 0] * 5, ["a"] * 19 + ["b"]
    found = metrics.bootstrap_interval("demographic_parity_difference", y, p, sensitive_features=s, replicates=2000)
    # P(the one sample of b is not drawn) = (19 / 20)^20 = .358, standard deviation .0107 over 2,000 replicates.
    assert found["skipped"] / 2000 == pytest.approx(0.358, abs=0.043)
    assert not math.isnan(found["low"])
    zero = metrics.bootstrap_interval(
        "demographic_parity_difference", y, p, sensitive_features=s, replicates=2000, undefined="zero"
    )
    assert zero["skipped"] == found["skipped"], "a group that was not drawn is not a rate of 0"


# ---- degradation


def test_degradation_disparity():
    cdd = metrics.corrupted_degradation_disparity
    clean, corrupted = [0.9, 0.8, 0.7], [0.6, 0.7, 0.5]  # lost: .3, .1, .2
    assert cdd(clean[:2], corrupted[:2]) == pytest.approx(0.2)
    assert cdd(clean, corrupted) == pytest.approx(0.2)
    assert cdd(clean, corrupted, reduce="mean_pairs") == pytest.approx(0.4 / 3)
    assert cdd(clean, corrupted, reduce="std") == pytest.approx(math.sqrt(0.02 / 3))
    assert cdd(clean, corrupted, reduce="max_to_overall", counts=[1, 1, 2]) == pytest.approx(0.1)
    assert cdd(clean[:2], corrupted[:2], relative=True) == pytest.approx(0.3 / 0.9 - 0.1 / 0.8)
    assert cdd(clean[:2], corrupted[:2], signed=True) == pytest.approx(0.2)
    assert cdd(clean[:2], corrupted[:2], signed=True, counts=[10, 90]) == pytest.approx(-0.2)
    assert cdd(clean[:2], corrupted[:2], signed=True, reference=0, counts=[10, 90]) == pytest.approx(0.2)
    assert cdd({"a": 0.9, "b": 0.8}, {"b": 0.7, "a": 0.6}) == pytest.approx(0.2)
    # The change of the gap; symmetric; at most 2; 0 for a gap that stays.
    assert cdd([0.9, 0.5], [0.8, 0.4]) == pytest.approx(0)
    assert cdd([1.0, 0.0], [0.0, 1.0]) == 2
    generator = random.Random(2)
    for _ in range(50):
        a, b = ([generator.random() for _ in range(2)] for _ in range(2))
        assert cdd(a, b) == pytest.approx(abs((a[0] - a[1]) - (b[0] - b[1])))
        assert cdd(a, b) == cdd(a[::-1], b[::-1])
    for bad in (
        lambda: cdd([0.9], [0.8]), lambda: cdd([0.9, 0.8], [0.8]), lambda: cdd([90.0, 80.0], [80.0, 70.0]),
        lambda: cdd(clean, corrupted, signed=True), lambda: cdd(clean, corrupted, reduce="largest"),
        lambda: cdd(clean, corrupted, reduce="max_to_overall"), lambda: cdd({"a": 1, "b": 1}, {"a": 1, "c": 1}),
    ):  # fmt: skip
        with pytest.raises(glyptic.ArgumentError):
            bad()


def test_degradation_table_and_model():
    torch.manual_seed(2)
    images, labels = torch.rand(60, 1, 28, 28), torch.randint(3, (60,))
    groups = ["thin"] * 20 + ["thick"] * 40
    weight = torch.randn(784, 3)

    def predict(x):
        return x.flatten(1) @ weight

    corruptions = [("gaussian_noise", 0.6), ("contrast", 3)]
    found = metrics.evaluate_under_corruption(predict, images, labels, groups, corruptions, seed=4, batch_size=7)
    assert found == metrics.evaluate_under_corruption(predict, images, labels, groups, corruptions, seed=4, batch_size=60)
    noisy = glyptic.data.corrupt(images, "gaussian_noise", param=0.6, seed=4)
    right = predict(noisy).argmax(1) == labels
    row = found["corrupted"]["gaussian_noise 0.6"]
    assert row["groups"]["thin"] == pytest.approx(float(right[:20].double().mean()))
    assert row["overall"] == pytest.approx(float(right.double().mean()))
    assert row["worst_group"] == min(row["groups"].values())
    lost = row["degradation"]
    assert row["cdd"] == pytest.approx(abs(lost["thin"] - lost["thick"]))
    assert found["mean_cdd"] == pytest.approx(sum(r["cdd"] for r in found["corrupted"].values()) / 2)
    same = metrics.degradation_table(labels, labels, {"none": labels}, sensitive_features=groups)
    assert same["mean_cdd"] == 0 and same["mean_overall"] == 1
    scores = torch.rand(60)
    two = (labels > 0).long()
    auc = metrics.degradation_table(two, scores, {"x": -scores}, sensitive_features=groups, base_metric="auc")
    assert auc["corrupted"]["x"]["groups"]["thin"] == pytest.approx(1 - auc["clean"]["thin"])
    balanced = metrics.degradation_table(two, two, {"x": 1 - two}, sensitive_features=groups, base_metric="balanced_accuracy")
    assert balanced["corrupted"]["x"]["overall"] == 0


# ---- weights


def test_kamiran_calders_numbers():
    w = fairness.fair_sample_weights(S, Y, "reweighing")
    assert {(s, y): round(float(v), 4) for s, y, v in zip(S, Y, w, strict=True)} == {
        (0, 0): 1.1667, (0, 1): 0.8333, (1, 0): 0.875, (1, 1): 1.25
    }  # fmt: skip
    assert float(w.sum()) == pytest.approx(12, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_do_what_they_are_for(seed, weighted):
    y, _, s, generator = random_case(seed, classes=3, n=200)
    given = torch.rand(200, generator=generator) if weighted else None
    for kind in ("group", "reweighing", "group_label"):
        w = fairness.fair_sample_weights(s, y, kind, given)
        assert float(w.mean()) == pytest.approx(float(given.double().mean()) if weighted else 1, abs=1e-6)
        totals = torch.zeros(3, 3, dtype=torch.float64).index_put_((s, y), w, accumulate=True) / w.sum()
        if kind == "group":
            torch.testing.assert_close(totals.sum(1), torch.full((3,), 1 / 3, dtype=torch.float64))
        elif kind == "reweighing":
            torch.testing.assert_close(totals, totals.sum(1, keepdim=True) * totals.sum(0))
        else:
            torch.testing.assert_close(totals, torch.full((3, 3), 1 / 9, dtype=torch.float64))


def test_weights_with_an_empty_cell():
    s, y = [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0]
    for kind in ("reweighing", "group_label"):
        with pytest.warns(UserWarning, match=r"\(group 1, class 1\)"):
            w = fairness.fair_sample_weights(s, y, kind)
        assert float(w.mean()) == pytest.approx(1)
    with pytest.warns(UserWarning, match="no sample of group 1"):
        w = fairness.fair_sample_weights([0, 0, 2], None, "group")
    assert w.tolist() == pytest.approx([0.75, 0.75, 1.5])
    assert fairness.fair_sample_weights([0, 1], kind="custom", sample_weight=[1.0, 3.0]).tolist() == [0.5, 1.5]


# ---- bad input


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: metrics.group_table([1, 0], [1], sensitive_features=[0, 1]), "y_true has 2 entries, y_pred 1"),
        (lambda: metrics.group_table([1, 0], [1, 0], sensitive_features=[0, 1, 1]), "groups has 3 entries for 2"),
        (lambda: metrics.demographic_parity_difference([1, 0], [1, 0], sensitive_features=[1, 1]), "one group only"),
        (lambda: metrics.group_table([1, 0], [1, 0], sensitive_features=[0.5, 1.0]), "floating"),
        (lambda: metrics.group_table([1, 0], [1, 0], sensitive_features=torch.rand(2)), "groups are labels"),
        (lambda: metrics.group_table([1, 0], [1, 0], sensitive_features=["a", None]), "missing"),
        (lambda: metrics.group_table([1, 0], [1, 0], sensitive_features=[0, 1], sample_weight=[1.0, -1.0]), ">= 0"),
        (lambda: metrics.group_table([1, 0], [1, 0], sensitive_features=[0, 1], sample_weight=[0.0, 0.0]), "sum to 0"),
        (lambda: metrics.group_table([1, 0], [1, 0], sensitive_features=[0, 1], sample_weight=[math.inf, 1]), "finite"),
        (lambda: metrics.group_table([1, 2], [1, 2], sensitive_features=[0, 1], pos_label=5), "pos_label is 5"),
        (lambda: metrics.fairness_metric("x", [1, 0], [1, 0], sensitive_features=[0, 1]), "no fairness metric 'x'"),
        (lambda: metrics.equalized_odds_difference(Y, P, sensitive_features=S, agg="sum"), "agg"),
        (lambda: metrics.equalized_odds_difference(Y, P, sensitive_features=S, method="x"), "method"),
        (lambda: metrics.equalized_odds_difference(Y, P, sensitive_features=S, undefined="x"), "undefined"),
        (lambda: metrics.aif360_metrics(Y, P, sensitive_features=S, privileged="x"), "no group 'x'"),
        (lambda: metrics.bootstrap_interval("theil_index", Y, P, sensitive_features=S, level=2), "level"),
        (lambda: metrics.degradation_table(Y, P, {}, sensitive_features=S), "no corruption"),
        (lambda: fairness.fair_sample_weights([0.0, 1.0]), "integer ids"),
        (lambda: fairness.fair_sample_weights([0, 1], [0], "reweighing"), "labels has 1 entries"),
        (lambda: fairness.fair_sample_weights([0, -1]), "-1"),
        (lambda: fairness.fair_sample_weights([0, 1], kind="custom", sample_weight=[-1.0, 2.0]), ">= 0"),
        (lambda: fairness.fair_sample_weights([0, 1], kind="reweighing"), "needs labels"),
        (lambda: fairness.fair_sample_weights([0, 1], [0, 1], kind="other"), "expected group"),
        (lambda: fairness.GroupDRO([1, 0]), "counts"),
        (lambda: fairness.GroupDRO([1, 1])(torch.ones(2), torch.tensor([0, 2])), "there are 2 groups"),
        (lambda: fairness.AccuracyGap()(torch.ones(()), torch.tensor([0])), "reduction='none'"),
        (lambda: fairness.FairnessGap(notion="x"), "notion"),
        (lambda: fairness.FairnessGap(notion="equal_opportunity").penalty(torch.ones(2), torch.tensor([0, 1])), "labels"),
    ],
)
def test_what_is_refused(call, text):
    with pytest.raises(glyptic.ArgumentError, match=re.escape(text)):
        call()


# ---- losses and samplers


def test_group_dro_follows_the_rule():
    torch.manual_seed(0)
    counts, eta, C = [90, 9, 1], 0.5, 2.0
    dro = fairness.GroupDRO(counts, eta, C)
    q = [1 / 3] * 3
    for step in range(5):
        losses = torch.rand(6).requires_grad_()
        groups = torch.tensor([0, 0, 0, 0, 1, 1] if step % 2 else [0, 0, 1, 1, 2, 2])
        L = [float(losses.detach()[groups == g].mean()) if (groups == g).any() else 0.0 for g in range(3)]
        L = [v + C / math.sqrt(n) for v, n in zip(L, counts, strict=True)]
        q = [a * math.exp(eta * v) for a, v in zip(q, L, strict=True)]
        q = [v / sum(q) for v in q]
        loss = dro(losses, groups)
        assert float(loss.detach()) == pytest.approx(sum(a * v for a, v in zip(q, L, strict=True)), rel=1e-5)  # float32
        assert dro.q.tolist() == pytest.approx(q, rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, losses)
        expected = [q[g] / int((groups == g).sum()) for g in groups.tolist()]
        assert gradient.tolist() == pytest.approx(expected, rel=1e-5)
    before = dro.q.clone()
    dro.eval()(torch.rand(6), groups)
    assert torch.equal(dro.q, before)
    other = fairness.GroupDRO(counts, eta, C)
    other.load_state_dict(dro.state_dict())
    assert torch.equal(other.q, before)


def test_gap_losses():
    torch.manual_seed(1)
    losses, scores = torch.rand(40), torch.rand(40, dtype=torch.float64, requires_grad=True)
    s, y = torch.randint(2, (40,)), torch.randint(2, (40,))

    def gap(keep):
        return (scores[keep & (s == 1)].mean() - scores[keep & (s == 0)].mean()).abs()

    everyone = torch.ones(40, dtype=torch.bool)
    for notion, expected in (
        ("demographic_parity", gap(everyone)),
        ("equal_opportunity", gap(y == 1)),
        ("equalized_odds", (gap(y == 1) + gap(y == 0)) / 2),
    ):
        wrapper = fairness.FairnessGap(3.0, notion)
        torch.testing.assert_close(wrapper.penalty(scores, s, y), expected)
        torch.testing.assert_close(wrapper(losses, scores, s, y), losses.mean() + 3 * expected)
        assert torch.autograd.gradcheck(lambda v, w=wrapper: w.penalty(v, s, y), scores)
    z = s.double()
    expected = ((z - z.mean()) * scores).mean().abs()
    torch.testing.assert_close(fairness.FairnessGap(form="covariance").penalty(scores, s), expected)
    alone = fairness.FairnessGap()
    assert float(alone.penalty(scores, torch.zeros(40, dtype=torch.long))) == 0 and alone.missing == 1
    expected = losses.mean() + 2 * (losses[s == 1].mean() - losses[s == 0].mean()).abs()
    torch.testing.assert_close(fairness.AccuracyGap(2.0)(losses, s), expected)
    assert fairness.AccuracyGap(2.0)(losses, torch.ones_like(s)) == losses.mean()


def test_fair_mixup_is_the_slope_along_the_path():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x0, x1 = torch.rand(5, 4).double(), torch.rand(5, 4).double()

    def mean_at(t):
        return net(t * x0 + (1 - t) * x1).mean()

    h = 1e-5
    slope = float((mean_at(0.3 + h) - mean_at(0.3 - h)).detach()) / (2 * h)
    found = fairness.fair_mixup_penalty(lambda x: net(x).squeeze(1), x0, x1, 0.3)
    assert float(found.detach()) == pytest.approx(abs(slope), rel=1e-6)  # central difference, error h^2
    found.backward()
    assert net[0].weight.grad.abs().sum() > 0


def test_samplers():
    s = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    sampler = fairness.GroupBalancedSampler(s, seed=3, num_samples=9000)
    drawn = s[torch.tensor(list(sampler))]
    # 3,000 of each, standard deviation sqrt(9000 * 2 / 9) = 45.
    assert all(abs(n - 3000) < 225 for n in torch.bincount(drawn).tolist())
    assert list(sampler) == list(sampler) and len(sampler) == 9000
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    kept = fairness.undersample(s, seed=1)
    assert torch.bincount(s[kept]).tolist() == [10, 10, 10] and kept.unique().numel() == 30
    assert torch.equal(kept, fairness.undersample(s, seed=1)) and not torch.equal(kept, fairness.undersample(s, seed=2))


def test_the_page_runs():
    page = pathlib.Path(__file__).resolve().parents[2] / "docs/fairness.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert len(code) >= 5
    given = {"glyptic": glyptic, "torch": torch}
    for k, snippet in enumerate(code):
        exec(compile(snippet, f"{page.name}, snippet {k + 1}", "exec"), given)
    for target in re.findall(r"\]\(([^)\s#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
