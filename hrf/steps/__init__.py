"""The steps of a run: folders in, folders out. One module per step, so that a step imports only what it needs.

What steps take and make has the same name in all of them, in their components and in `hrf.steps.sequence`:

    run                 what `prepare` settled: the resolved configuration, the run's identity, prompts, classifiers
    base                the pretrained model, in diffusers' layout, in float32 safetensors
    policy              weights, with the records of the epochs that they were trained in
    training_state      the optimizer's state and the counters that belong to a policy
    baseline            the base's measurements and sample grid, the states that evaluations start from, the evaluation
                        of the policy that the run starts from with its switch step, and the prefix pool
    trajectories        states and log-probabilities of an epoch's trained tails
    samples             its finished samples, with their prompts where the model has any
    scores              their rewards, and what else advantages are made of
    evaluation          `evaluation.json` and the sample grid
    history             the records of all epochs up to an evaluation; None before a run's first
    report, page        one self-contained HTML file
    summary             `summary.json` and the sample grids
    new_NAME            what a step makes of the NAME that it was given

    epoch               from 0; for `train` the first one of several, for what follows training the last one
    replica             the chain of epochs that it belongs to, from 0; each has noise of its own
    shard, num_shards   which part of an epoch's roots, from 0, and how many parts there are
    preset, overrides, learning_rate, seed     see `hrf.steps.check.settle_config`
    experiment, run_id, storage                the run's records are in STORAGE/EXPERIMENT/runs/RUN_ID; s3://bucket/prefix

A step verifies the folders that it is given and writes its own whole or not at all. What it returns is flat: numbers,
which become Kubeflow's metrics, and words.
"""
