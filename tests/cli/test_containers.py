"""Commands without a home, a name of the user, a folder to write to, or a terminal that has Unicode."""

import os
import subprocess

import pytest

from serving import MMREC, mmrec


@pytest.fixture
def user(fitted):
    return fitted.state.dataset.data.users[4]


# As a user id without a name, which may write nothing that is not its own.
NOBODY = ["unshare", "-U", "--map-user=54321", "--map-group=54321"]


def run(*words, program=MMREC, **environment):
    """A command with nothing else in its environment."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    line = [*program, *map(str, words)]
    return subprocess.run(line, env=kept | environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def as_nobody():
    """A program that runs commands as such a user."""
    if subprocess.run([*NOBODY, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not permitted here")
    return [*NOBODY, *MMREC]


def test_a_user_without_a_name_or_a_home_needs_a_cache_folder_alone(model, user, tmp_path, as_nobody):
    words = "recommend", model, "--user", user, "--n", "1"
    listed = run(*words, program=as_nobody, MMREC_CACHE=str(tmp_path))
    assert (listed.returncode, listed.stderr) == (0, "")
    lost = run(*words, program=as_nobody)
    assert lost.returncode == 2
    assert lost.stderr.startswith("mmrec: this user has no home folder; name a folder")
    assert "MMREC_CACHE" in lost.stderr
    assert len(lost.stderr.splitlines()) == 1


def test_what_cannot_be_written_is_named_with_what_to_choose_instead(model, user, tmp_path):
    (tmp_path / "file").write_text("")  # below which nothing can be made, even by root
    closed = tmp_path / "file" / "cache"
    listed = run("recommend", model, "--user", user, HOME=str(closed))
    assert listed.returncode == 2
    assert "MMREC_CACHE" in listed.stderr
    database = f"sqlite:///{closed / 'live.sqlite'}"
    served = run("serve", model, "--database", database, MMREC_CACHE=str(tmp_path / "cache"))
    assert served.returncode == 2
    assert f"(sqlite, {closed / 'live.sqlite'})" in served.stderr
    assert "--database names another" in served.stderr


def test_a_terminal_without_unicode_shows_escapes(model, user, tmp_path):
    settings = {"MMREC_CACHE": str(tmp_path), "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    wish = "a caf\u00e9 \u201cnice\u201d \U0001f35c"
    for words in (["--user", user, "--why"], ["--likes", wish], ["--likes", wish, "--json"]):
        listed = run("recommend", model, *words, **settings)
        assert listed.returncode == 0, listed.stderr
        assert "Error" not in listed.stderr
    shown = run("recommend", model, "--user", "n\u00e4\U0001f35c", **settings)
    assert "Traceback" not in shown.stderr + shown.stdout
    assert mmrec("doctor", cwd=tmp_path).returncode == run("doctor", **settings).returncode
