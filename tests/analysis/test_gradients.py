"""Probes of a study's runs, and how closely norms follow rates."""

from __future__ import annotations

import json
import math

import pytest

from budgeted.analysis import gradients, results


def put_probes(manifest, norm, factor, count=11):
    """Rows of probes in every run's folder."""
    for run in results.runs_of(manifest).itertuples():
        rows = []
        for k in range(count):
            p = k / (count - 1)
            rows.append({"steps": k, "progress": p, "factor": None if k == 0 else factor(p), "full_gradient": norm(p)})
            rows.append({"steps": k, "progress": p, "factor": factor(p), "loss": 1.0})
        with open(f"{run.folder}/rows.jsonl", "w") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    return gradients.probes_of(results.runs_of(manifest))


def test_a_norm_that_follows_the_rate(shelf):
    manifest = shelf.study({("linear", "1%"): [0.5, 0.6]})
    probes = put_probes(manifest, lambda p: 5 * (1 - p) + 1, lambda p: 1 - p)
    assert len(probes) == 22
    assert probes["factor"].iloc[0] == 1.0  # of the first row after it
    (found,) = gradients.correlations(probes).itertuples()
    assert (found.pearson, found.spearman) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found.fell_to == pytest.approx(1 / 5.5)


def test_a_constant_rate_correlates_with_nothing(shelf):
    probes = put_probes(shelf.study({("const", "1%"): [0.5]}), lambda p: 2 - p, lambda _: 1.0)
    (found,) = gradients.correlations(probes).itertuples()
    assert math.isnan(found.pearson)
    assert found.fell_to == pytest.approx(1 / 1.9)


def test_too_few_probes_and_none(shelf):
    manifest = shelf.study({("linear", "1%"): [0.5]})
    assert gradients.probes_of(results.runs_of(manifest)).empty
    assert gradients.correlations(put_probes(manifest, lambda _: 1.0, lambda p: p, count=5)).empty
