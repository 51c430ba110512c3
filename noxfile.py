"""Everything one can do here: ``nox -l``. Plain ``nox`` runs lint, types and every test, as CI does."""

from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["check"]
# Comes with nox, and makes an environment in half a second, in which `python -m venv` unpacks pip for four.
nox.options.default_venv_backend = "virtualenv"

nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
"""The versions that are supported; a session is skipped where its interpreter is missing."""
WORKERS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""Processes for the tests without a broker: they wait half of their time."""


def _install(session: nox.Session, *groups: str) -> None:
    """The package as users get it, built and installed, and what the session needs beside it.

    What is imported is compiled then: to compile all that is installed takes a third of the whole.
    """
    session.install("--no-compile", ".", *nox.project.dependency_groups(PYPROJECT, *groups))


def _suite(session: nox.Session, *options: str) -> None:
    session.run("coverage", "erase")
    session.run("python", "-m", "testbed.tiers", "--durations=10", *options, *session.posargs)
    is_covered = "--coverage" in options
    if session.posargs and not is_covered:
        return
    session.run("coverage", "combine", "--quiet")
    if is_covered:
        session.run("coverage", "report")
    if not session.posargs:
        session.run("coverage", "report", "--include=dispatcher/sansio/*", "--fail-under=100")


@nox.session
def check(session: nox.Session) -> None:
    """Lint, types and every test, in one environment: what plain ``nox`` and CI run; arguments go to pytest."""
    _install(session, "lint", "types")
    _suite(session, "--checks")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, traps of async code, and the arrows between the rooms."""
    _install(session, "lint")
    session.run("python", "-m", "testbed.checks", "lint")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy --strict, of the package and its tests."""
    _install(session, "types")
    session.run("python", "-m", "testbed.checks", "types")


def _pytest(session: nox.Session, tier: str, *arguments: str) -> None:
    """One tier of the tests, or what the arguments select."""
    _install(session, "tests")
    selected = session.posargs or ["-m", tier, *arguments]
    session.run("python", "-m", "pytest", "--durations=10", *selected)


@nox.session
def suite(session: nox.Session) -> None:
    """Every tier of the tests; arguments go to each tier's pytest."""
    _install(session, "tests")
    _suite(session)


@nox.session
def coverage(session: nox.Session) -> None:
    """Every tier, and what it covers, replicas included: takes half as long again; arguments go to pytest."""
    _install(session, "tests")
    _suite(session, "--coverage")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Pure logic and sockets, no broker and no browser: the first thing to run; arguments go to pytest."""
    _pytest(session, "tests", *WORKERS)


@nox.session
def own_module(session: nox.Session) -> None:
    """Each file of the pure rooms, covered to its last branch by its own test file; arguments name some of them."""
    _install(session, "tests")
    session.run("python", "-m", "testbed.own_modules", *session.posargs)


@nox.session
def broker(session: nox.Session) -> None:
    """The whole path on a real Apache Kafka; needs Java and Maven; arguments go to pytest."""
    _pytest(session, "broker")


@nox.session
def browser(session: nox.Session) -> None:
    """The page and client.js in Chromium and Node; arguments go to pytest."""
    _pytest(session, "browser")


@nox.session
def soak(session: nox.Session) -> None:
    """Chaos, audits and recipes, which take minutes; arguments go to pytest."""
    _pytest(session, "soak")


@nox.session
def release(session: nox.Session) -> None:
    """Everything for a release but the upload, and what is left to do: ``-- 0.2.0``; ``--anyway`` for a trial."""
    _install(session, "tests")
    session.install("build>=1.2", "twine>=6")
    session.run("python", "-m", "testbed.release", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The dispatcher on an embedded broker with made-up events; arguments go to `dispatcher demo`."""
    _install(session)
    session.run("dispatcher", "demo", *session.posargs)


@nox.session
def kafka(session: nox.Session) -> None:
    """A real Apache Kafka for hand use, until Ctrl-C; needs Java and Maven; ``-- --nodes 3``, ``-- --registry``."""
    _install(session, "tests")
    session.run("python", "-m", "testbed.broker", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Replicas on a real 3-node Kafka, left alone, with every guarantee checked; ``-- --help`` for more."""
    _install(session, "tests")
    session.run("python", "-m", "tests.audit", *session.posargs)


@nox.session
def histories(session: nox.Session) -> None:
    """Generated histories of a topic, played to both clients; ``-- --number 10000`` for more of them."""
    _install(session, "tests")
    session.run("python", "-m", "tests.client_histories.run", *session.posargs)


@nox.session
def worst(session: nox.Session) -> None:
    """Let both clients suffer from servers that say the worst at every turn: ``nox -s worst -- --minutes 1``."""
    _install(session, "tests")
    session.run("python", "-m", "tests.worst.run", *session.posargs)


@nox.session
def page_trials(session: nox.Session) -> None:
    """Pages in Chromium beside a frozen server, frozen themselves, without network or storage, fifty at a time."""
    _install(session, "tests")
    session.run("python", "-m", "tests.page_trials", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Replicas, brokers, topics and subscribers under fire, audited; ``-- --help`` for what can happen."""
    _install(session, "tests")
    session.run("python", "-m", "tests.chaos", *session.posargs)


@nox.session
def trial(session: nox.Session) -> None:
    """``whole-topic``, ``standby``, ``observers``, ``letters``, ``leaving``, ``cuts`` on a real Kafka: ``-- NAME``."""
    _install(session, "tests")
    session.run("python", "-m", "tests.trial", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Nonsense against a running replica and the decoders; ``-- --minutes N``, ``--seed N``, ``--only schemas``."""
    _install(session, "tests")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def swarm(session: nox.Session) -> None:
    """The Swarm stack on a Docker Engine, scaled, updated, broken and drained under audit; ``-- --help`` for more."""
    _install(session, "tests")
    session.run("python", "-m", "tests.swarm", *session.posargs)


@nox.session
def pictures(session: nox.Session) -> None:
    """The live page in each of its states, into docs/pictures; needs Chromium; ``-- SCENE`` for some."""
    _install(session, "tests")
    session.run("python", "-m", "tests.pictures", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks on a real Kafka: all, or ``-- NAME``; ``-- --quick`` to see that they work."""
    _install(session, "tests")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def flame(session: nox.Session) -> None:
    """Where the time goes under load, as docs/pictures/flame.svg; ``-- --help`` for other loads."""
    _install(session, "tests")
    session.install("py-spy>=0.4")
    session.run("python", "-m", "benchmarks.flame", *session.posargs)


@nox.session
def rooms(session: nox.Session) -> None:
    """Draw the rooms of the code and the arrows between them into docs/architecture.md, from its imports."""
    _install(session, "lint")
    session.run("python", "-m", "testbed.rooms")


@nox.session
def settings(session: nox.Session) -> None:
    """Write docs/settings.md from the settings class."""
    _install(session)
    text = session.run("dispatcher", "config", "--reference", silent=True)
    Path("docs/settings.md").write_text(str(text))
