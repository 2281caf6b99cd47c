"""The command line: each command in the file of its subject; `mmrec --help` is the map."""

import sys
from io import TextIOWrapper
from typing import Any

from cyclopts import App, CycloptsError, CycloptsPanel

import mmrec
from mmrec.errors import MmrecError


def _describe_error(error: CycloptsError) -> Any:
    """Say which flag is wrong and why, without the names of the classes that hold the settings."""
    # A pydantic.ValidationError, where a setting is wrong; pydantic is slow to import.
    find_issues = getattr(error.__cause__, "errors", None)
    if find_issues is None:
        return CycloptsPanel(error)
    lines = []
    for issue in find_issues(include_url=False):
        line = issue["msg"].removeprefix("Value error, ")
        if names := [name for name in issue["loc"] if isinstance(name, str)]:
            line = f"--{'.'.join(names[1:] or names).replace('_', '-')} {issue['input']}: {line}"
        lines.append(line)
    return CycloptsPanel("\n".join(lines))


app = App(
    name="mmrec",
    help="Recommendations that people can trust, from reviews and photos.",
    version=mmrec.__version__,
    error_formatter=_describe_error,
    suppress_keyboard_interrupt=False,
)
# Commands are imported when they run; their help stands here, so that `mmrec --help` imports none.
app.command("mmrec.cli.fit:demo", help="Try everything on a generated city.")
app.command("mmrec.cli.fit:fit", help="Train on reviews; save a model and a report.")
app.command("mmrec.cli.annotate:annotate", help="Annotate reviews with a language model.")
app.command("mmrec.cli.fit:evaluate", help="Measure a saved model.")
app.command("mmrec.cli.experiments:reproduce", help="Repeat the paper's experiment.")
app.command("mmrec.cli.experiments:ablate", help="Measure what groups of features add.")
app.command("mmrec.cli.experiments:sweep", help="Train with several values of a setting.")
app.command("mmrec.cli.experiments:cold_start", help="Measure new items and new users.")
app.command("mmrec.cli.recommend:recommend", help="Recommend items to known or new users.")
app.command("mmrec.cli.serve:serve", help="Serve a saved model: web pages and an API.")
app.command("mmrec.cli.doctor:doctor", help="Check what this machine can run.")
app.command("mmrec.cli.store:store_app", name="store", help="Manage stored results.")
_photos = App(name="photos", help="Manage photos that the data name by URL.")
_photos.command("mmrec.cli.photos:fetch", help="Download photos.")
app.command(_photos)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error that the user can fix is printed as a sentence, with exit status 2."""
    # What a terminal cannot show is escaped, as Python does by itself on standard error.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    words: list[str] = []
    for word in sys.argv[1:] if arguments is None else arguments:
        words += word.split("=", 1) if word.startswith("--map=") else [word]
        # Of `--map rating=stars` the parser understands only `--map.rating stars`.
        if words[-2:-1] == ["--map"] and "=" in words[-1]:
            key, value = words.pop().split("=", 1)
            words[-1:] = [f"--map.{key}", value]
    try:
        app(words)
    except MmrecError as error:
        from mmrec.console import print_error  # slow to import

        print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        message = "stopped; results are stored, and the same command continues from there"
        print(f"\n{message}", file=sys.stderr)
        sys.exit(130)  # 128 and the number of SIGINT, as shells expect
