"""Settings of a small run of the shapes suite, for the command and for the API."""

from reward_benchmark.run import RunConfig

SCORERS = ("oracle", "colour-histogram", "random")
GENERATORS = ("soft", "faithful", "mosaic")


def config(out, **more):
    return RunConfig("shapes", out, scorers=SCORERS, generators=GENERATORS, limit=2, **more)


def arguments(out, *more):
    return (
        "run", "shapes", "--scorers", ",".join(SCORERS), "--generators", ",".join(GENERATORS), "--limit", 2,
        "--out", out, *more,
    )  # fmt: skip
