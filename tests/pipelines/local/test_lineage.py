"""Where a model comes from, in a chain back to the base."""

from hrf.promotion.records import DecisionRecord, HistoryEntry, Promotion, RunStart, RunSummary
from hrf.promotion.runs import RunRecords
from hrf_pipelines.local.lineage import lineage_lines, trace

CONFIG = {"model": {"source": "shipped:avatars-32", "revision": ""}}


def _decision(run_id, epoch, outcome, *, started_from=None, sequence=None):
    candidate = f"{run_id}/epoch-{epoch:04d}"
    return DecisionRecord(
        candidate_id=candidate,
        run_id=run_id,
        epoch=epoch,
        candidate_key=f"e/candidates/{candidate}",
        **dict.fromkeys(("candidate_digest", "evaluation_digest", "time"), ""),
        **dict.fromkeys(("reward_vs_incumbent", "diversity_ratio", "diversity_floor", "confidence")),
        **{name: [] for name in ("monitors_tripped", "checks", "reasons")},
        outcome=outcome,
        incumbent_id=started_from,
        attempts=1,
        sequence=sequence,
    )


def _summary(run_id, *, started_from=None, promoted_epochs=()):
    """What the chain is made from; the rest of a summary is left out."""
    decisions = [_decision(run_id, epoch, "promoted" if epoch in promoted_epochs else "rejected") for epoch in range(3)]
    entries = [
        HistoryEntry.model_construct(epoch=epoch, decision=decision)
        for epoch, decision in enumerate([*decisions, None])
    ]
    run = {"run_id": run_id, "experiment": "e", "started_from": started_from}
    return RunSummary.model_construct(run=run, config=CONFIG, epochs=entries)


def _store(storage, summary, sequence):
    run_id, parent = summary.run["run_id"], summary.run["started_from"]
    decision = _decision(run_id, summary.promoted_epochs[-1].epoch, "promoted", started_from=parent, sequence=sequence)
    about = {name: getattr(decision, name) for name in DecisionRecord.model_fields if name in Promotion.model_fields}
    promotion = Promotion(**{**about, "sequence": sequence}, previous=parent, decision=decision)
    storage.create_json(f"e/history/{sequence:06d}.json", promotion.as_json())
    start = RunStart(
        run_id=run_id,
        experiment="e",
        config_digest="",
        preset="",
        started_from=parent,
        started_from_sequence=None,
        incumbent=None,
        noise_tag="",
        code="0",
        created="2026-01-01T00:00:00+00:00",
    )
    RunRecords(storage=storage, experiment="e", run_id=run_id).begin(start)


def test_the_last_promotion_of_a_run_from_the_base(tmp_path):
    chain = trace(_summary("a", promoted_epochs=(0, 2)), tmp_path, "")
    assert [record["candidate"] for record in chain] == ["a/epoch-0002", "base"]
    assert (chain[0]["run"], chain[0]["epoch"], chain[0]["configuration"]) == ("a", 2, "e/runs/a/config.yaml")


def test_a_run_without_promotion_still_names_its_base(tmp_path):
    assert lineage_lines(trace(_summary("a"), tmp_path, "")) == [
        "lineage     run a, which promoted nothing",
        "  came from base model shipped:avatars-32",
    ]


def test_a_candidate_that_nothing_is_known_of_is_said_to_be_missing(tmp_path):
    chain = trace(_summary("b", started_from="a/epoch-0002", promoted_epochs=(1,)), tmp_path, "")
    assert "its record is gone" in lineage_lines(chain)[1]


def test_the_chain_goes_through_earlier_runs_in_the_storage(tmp_path, storage, storage_uri):
    first = _summary("a", promoted_epochs=(2,))
    second = _summary("b", started_from="a/epoch-0002", promoted_epochs=(1,))
    _store(storage, first, 1)
    third = _summary("c", started_from="b/epoch-0001")
    _store(storage, second, 2)
    chain = trace(third, tmp_path, storage_uri)
    assert [record["candidate"] for record in chain] == [None, "b/epoch-0001", "a/epoch-0002", "base"]
