"""A Kubeflow Pipelines API that is a real HTTP server with real state, and takes nothing that its definition lacks.

definitions.py   what the API is: KFP's own OpenAPI file where it is at hand, and the kfp-server-api package always
validation.py    requests and answers against a definition
filters.py       the filters of listing calls
state.py         pipelines, versions, experiments, runs, recurring runs
recordings.py    what a real server answered, in `recorded/`: of runs, Workflows and a schedule
plays.py         how a run goes by, look by look, with no state, entry or field that no recording has
robfig_cron.py   the cron parser of Kubeflow's server and controller
server.py        HTTP

What it answers of runs, their tasks and schedules is what a real server answered. Of refusals, uploads and listings
there are no recordings but in words: those follow the source of the server's release 2.17, as comments say. All answers
are held to its definition.
"""
