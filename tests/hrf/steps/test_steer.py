import json
import pytest
def test_try(steps):
    run = steps("run", {"diversity_floor": 0.9, "run": {"epochs": 8}, "evaluation":{"num_samples":16}, "policy":{"split":0.0},"starts": {"kind": "window", "schedule": "uniform", "width": 0.0},"update": {"learning_rate": 1e-2}})
    run.prepare()
    for e in range(8):
        run.epoch(e); 
        if (run.folder/f"evaluation-{e}").exists(): pass
        m = run.judge(e)
        f = run.steer(e)
        print(e, m.get("outcome"), f)
    print(run.summarize("history-8"))
