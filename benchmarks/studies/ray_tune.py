"""A grid of runs of digits in Ray Tune: the function of `plain_digits.py`, one CPU each.

python benchmarks/studies/ray_tune.py --schedules linear const --epochs 5 10 --seeds 3 --jobs 2 --out results
"""

import argparse
import json
from pathlib import Path

import ray
from plain_digits import train
from ray import tune


def trainable(config):
    return train(**config)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schedules", nargs="+", required=True)
    parser.add_argument("--epochs", nargs="+", type=int, required=True)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    ray.init(address="local", num_cpus=given.jobs, include_dashboard=False)
    grid = {"schedule": given.schedules, "epochs": given.epochs, "seed": list(range(given.seeds))}
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={name: tune.grid_search(values) for name, values in grid.items()},
        run_config=tune.RunConfig(storage_path=str(given.out.resolve() / "tune"), verbose=0),
    ).fit()
    for number, result in enumerate(results):
        if result.error is not None:
            raise result.error
        found = {name: result.metrics[name] for name in ("accuracy", "updates")}
        (given.out / f"{number}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
