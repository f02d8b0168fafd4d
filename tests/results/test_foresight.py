"""What cells took over what was expected of them."""

import dataclasses

from synthetic_records import ENVIRONMENT, simulate

from bob_jax import cli
from bob_jax.results import foresight
from bob_jax.results.record import Cost, Estimate
from bob_jax.results.store import Store


def took(wall, expected, source="table", seed=0, devices=8):
    record, outputs = simulate(seed=seed, n=20)
    environment = dataclasses.replace(ENVIRONMENT, device_count=devices)
    estimate = None if expected is None else Estimate(expected, source, 100.0, 0.0)
    return dataclasses.replace(record, cost=Cost(wall), estimate=estimate, environment=environment), outputs


def test_the_median_ratio_of_device_seconds_by_source():
    made = [took(wall, 8.0)[0] for wall in (1.0, 2.0, 3.0, 4.0, 50.0)]
    made += [took(5.0, 10.0, "cell", devices=1)[0]]
    made += [took(5.0, None)[0], took(None, 8.0)[0], took(5.0, 0.0, "cell")[0]]  # nothing to compare
    found = foresight.ratios(made)
    assert found == {"cell": foresight.Ratio(1, 0.5, 0.5, 0.5), "table": foresight.Ratio(5, 3.0, 2.0, 4.0)}
    assert list(foresight.sentences(found)) == [
        "1 cell took 0.5 times what was expected from the same cell with another seed",
        "5 cells took 3 times (half of them 2 to 4) what was expected from FLOPs and the device table",
    ]
    assert foresight.ratios([]) == {}


def test_results_tell_it_beside_the_boards(tmp_path, capsys):
    store = Store(tmp_path)
    for seed in (0, 1):
        store.write(*took(2.0, 8.0, seed=seed))
    assert cli.main(["results", str(tmp_path)]) == 0
    assert "2 cells took 2 times (half of them 2 to 2) what was expected from FLOPs" in capsys.readouterr().out
    assert cli.main(["results", str(tmp_path), "--csv"]) == 0
    assert "took" not in capsys.readouterr().out
    assert cli.main(["results", "export", str(tmp_path), "--csv"]) == 0
    header, line, *_ = capsys.readouterr().out.splitlines()
    told = dict(zip(header.split(","), line.split(","), strict=True))
    assert (float(told["estimated_seconds"]), told["estimate_source"]) == (8.0, "table")
