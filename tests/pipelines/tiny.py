"""A pipeline of real, tiny components, to watch the local runner without waiting for a model."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Output

from hrf_pipelines.package import compile_package


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def first(run_tag: str, notes: str, made: Output[Artifact]) -> None:
    """Note that it ran, and who it is."""
    import os
    from pathlib import Path

    from hrf.distributed.progress import emit
    from hrf.storage.folders import writing_folder

    with open(notes, "a") as stream:
        stream.write("first\n")
    with writing_folder(made.path, producer={"step": "first"}) as folder:
        (folder / "value").write_text(run_tag)
    os.write(1, f"a secret: {os.environ.get('AWS_SECRET_ACCESS_KEY')}\n".encode())
    emit("step-finished", step="first", epoch=None, seconds=0.0)
    made.metadata["cwd"] = str(Path.cwd())
    os.environ["LEFT_BEHIND"] = "by the first step"


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def second(notes: str, gate: str, made: Input[Artifact], report: Output[HTML], summary: Output[Artifact]) -> None:
    """Do what the gate file says: fail, hang, or finish."""
    import os
    import time
    from pathlib import Path

    from hrf.distributed.progress import emit
    from hrf.errors import NumericalError
    from hrf.steps.context import step
    from hrf.storage.folders import writing_folder

    def work() -> None:
        with open(notes, "a") as stream:
            stream.write(f"second {os.getpid()} {os.getppid()} {os.environ.get('LEFT_BEHIND', 'nothing')}\n")
        order = Path(gate).read_text()
        if order == "tell":
            print(os.environ, flush=True)  # noqa: T201 - as any scorer may
            raise NumericalError(f"not in {dict(os.environ)}", where="epoch=3", fix="look")
        if order == "fail":
            raise NumericalError("the loss is nan", where="epoch=3", fix="lower the rate")
        if order == "crash":
            os._exit(9)
        while Path(gate).read_text() == "hang":
            time.sleep(0.05)
        with writing_folder(summary.path, producer={"step": "second"}) as folder:
            (folder / "summary.json").write_text("{}")
        Path(report.path).write_text("<p>" + (Path(made.path) / "value").read_text())
        emit("reported", report=report.path, summary=summary.path)

    step("second")(work)()


def package() -> str:
    """Compile it."""

    @dsl.pipeline(name="tiny")
    def tiny(notes: str, gate: str, experiment: str = "", storage: str = "", run_tag: str = ""):
        begun = first(run_tag=run_tag, notes=notes)
        second(notes=notes, gate=gate, made=begun.outputs["made"])

    return compile_package(tiny)
